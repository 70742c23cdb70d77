import { OctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import { type Static, Type } from 'typebox';
import { GatheredReads } from '../database/gathered-reads.js';
import { type App, requireScope, type Scope } from '../http/index.js';
import type { Model } from '../models/model-store.js';
import { affectedJson, historyJson, judgementJson, rolloutJson } from './rollout-json.js';
import { ROLLOUT_STATES } from './rollout-machine.js';
import type { RolloutService } from './rollout-service.js';
import type { Rollout } from './rollout-store.js';
import { ratioOf } from './share.js';

export interface RolloutRoutesOptions {
  readonly rollouts: RolloutService;
  /** The sliver of the registry that finds models by id or name. */
  readonly registry: { readonly models: { get(organizationId: string, idOrName: string): Promise<Model> } };
}

const MAX_ID = Number.MAX_SAFE_INTEGER;
/** 31 days. */
const MAX_SECONDS = 2_678_400;
const tags = ['rollouts'];

const ModelParams = Type.Object({ id: Type.String() });
const RolloutParams = Type.Object({ id: Type.String(), rid: Type.Integer({ minimum: 1, maximum: MAX_ID }) });
const Percentage = (minimum: number) => Type.Number({ minimum, maximum: 100 });
/** Nothing less than a thousandth of a percent moves a device. */
const Step = Percentage(0.001);
const Reason = Type.Optional(Type.Union([Type.String({ maxLength: 1000 }), Type.Null()]));
const CreateBody = Type.Object({
  // The documents also write versions as numbers.
  version: Type.Union([Type.String({ minLength: 1, maxLength: 100 }), Type.Integer({ minimum: 1 })]),
  rollout_percentage: Type.Optional(Percentage(0)),
  target_percentage: Type.Optional(Step),
  increment_step: Type.Optional(Step),
  start_immediately: Type.Optional(Type.Boolean()),
  advance_every_seconds: Type.Optional(Type.Union([Type.Number({ minimum: 1, maximum: MAX_SECONDS }), Type.Null()])),
  selector: Type.Optional(Type.Unknown()),
  health: Type.Optional(Type.Unknown()),
  reason: Reason,
});
const Status = Type.Union(ROLLOUT_STATES.map((state) => Type.Literal(state)));
const ListQuery = Type.Object({
  status_filter: Type.Optional(Status),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 })),
});
const AdvanceBody = Type.Optional(
  Type.Union([Type.Object({ custom_increment: Type.Optional(Type.Union([Step, Type.Null()])) }), Type.Null()]),
);
const ReasonBody = Type.Optional(Type.Union([Type.Object({ reason: Reason }), Type.Null()]));
const PercentageBody = Type.Object({ percentage: Percentage(0), reason: Reason });
const DevicesQuery = Type.Object({
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  // Devices are skipped one by one: further on, the cursor is the way.
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: 10_000 })),
  cursor: Type.Optional(Type.String({ minLength: 1, maxLength: 300 })),
});
const DeleteQuery = Type.Object({ force: Type.Optional(Type.Boolean()) });

/** Staged rollouts of a model's versions. */
export function registerRolloutRoutes(app: App, { rollouts, registry }: RolloutRoutesOptions): void {
  const { commands, store } = rollouts;
  const figuresOf = sharedFigures(rollouts);
  const base = '/api/v1/models/:id/rollouts';
  const one = `${base}/:rid`;
  const modelOf = async (
    request: FastifyRequest,
    scope: Scope,
    id: string,
  ): Promise<{ model: Model; actor: string }> => {
    const { organizationId, keyId } = requireScope(request, scope);
    return { model: await registry.models.get(organizationId, id), actor: `key:${keyId}` };
  };
  const find = async (request: FastifyRequest, { id, rid }: Static<typeof RolloutParams>): Promise<Rollout> => {
    const { model } = await modelOf(request, 'rollouts:read', id);
    return store.get(model.id, rid);
  };
  const withFigures = async (rollout: Rollout): Promise<Record<string, unknown>> => {
    const figures = await figuresOf(rollout);
    return figures === undefined ? rolloutJson(rollout) : { ...rolloutJson(rollout), ...figures };
  };

  app.post(
    base,
    {
      schema: {
        tags,
        summary: 'Creates a rollout of a published version, as a draft unless start_immediately',
        params: ModelParams,
        body: CreateBody,
      },
    },
    async (request, reply) => {
      const { model, actor } = await modelOf(request, 'rollouts:write', request.params.id);
      const { body } = request;
      const created = await commands.create(
        model,
        {
          version: String(body.version),
          initialRatio: ratioOf(body.rollout_percentage ?? 10),
          targetRatio: ratioOf(body.target_percentage ?? 100),
          incrementRatio: ratioOf(body.increment_step ?? 10),
          advanceEverySeconds: body.advance_every_seconds ?? null,
          selector: body.selector,
          health: body.health,
          startImmediately: body.start_immediately ?? false,
          reason: body.reason ?? null,
        },
        actor,
      );
      return reply.code(201).send(rolloutJson(created));
    },
  );

  app.get(
    base,
    {
      schema: { tags, summary: "Lists a model's rollouts, newest first", params: ModelParams, querystring: ListQuery },
    },
    async (request) => {
      const { model } = await modelOf(request, 'rollouts:read', request.params.id);
      const { status_filter: status, limit, offset } = request.query;
      const rows = await store.list(model.id, {
        ...(status === undefined ? {} : { states: [status] }),
        ...(limit === undefined ? {} : { limit }),
        ...(offset === undefined ? {} : { offset }),
      });
      return rows.map(rolloutJson);
    },
  );

  app.get(
    `${base}/active`,
    { schema: { tags, summary: "The model's rollout under way, in a list that may be empty", params: ModelParams } },
    async (request) => {
      const { model } = await modelOf(request, 'rollouts:read', request.params.id);
      return (await store.list(model.id, { states: ['active'] })).map(rolloutJson);
    },
  );

  app.get(
    one,
    { schema: { tags, summary: 'A rollout with the figures its gates are judged on', params: RolloutParams } },
    async (request) => withFigures(await find(request, request.params)),
  );

  app.post(
    `${one}/start`,
    { schema: { tags, summary: 'Starts a draft at its first share', params: RolloutParams } },
    async (request) => {
      const { model, actor } = await modelOf(request, 'rollouts:write', request.params.id);
      return rolloutJson(await commands.start(model.id, request.params.rid, actor));
    },
  );

  app.post(
    `${one}/advance`,
    { schema: { tags, summary: 'Goes to the next stage', params: RolloutParams, body: AdvanceBody } },
    async (request) => {
      const { model, actor } = await modelOf(request, 'rollouts:write', request.params.id);
      const { rid } = request.params;
      const increment = request.body?.custom_increment ?? undefined;
      await refuseBreach(rollouts, await store.get(model.id, rid));
      const ratio = increment === undefined ? undefined : ratioOf(increment);
      return rolloutJson(await commands.advance(model.id, rid, ratio, actor));
    },
  );

  for (const [action, summary] of [
    ['pause', 'Pauses a rollout: devices keep what they have, no more are reached'],
    ['resume', 'Resumes a paused rollout'],
    ['rollback', 'Takes a rollout back: the previous versions are desired again at once'],
  ] as const) {
    app.post(
      `${one}/${action}`,
      { schema: { tags, summary, params: RolloutParams, body: ReasonBody } },
      async (request) => {
        const { model, actor } = await modelOf(request, 'rollouts:write', request.params.id);
        return rolloutJson(await commands[action](model.id, request.params.rid, request.body?.reason ?? null, actor));
      },
    );
  }

  app.post(
    `${one}/update-percentage`,
    {
      schema: {
        tags,
        summary: 'Sets the share, at least what it is and at most the target',
        params: RolloutParams,
        body: PercentageBody,
      },
    },
    async (request) => {
      const { model, actor } = await modelOf(request, 'rollouts:write', request.params.id);
      const { percentage, reason = null } = request.body;
      const { rid } = request.params;
      await refuseBreach(rollouts, await store.get(model.id, rid));
      return rolloutJson(await commands.updateShare(model.id, rid, ratioOf(percentage), reason, actor));
    },
  );

  app.get(
    `${one}/status-history`,
    { schema: { tags, summary: 'Who moved the rollout, when and why, oldest first', params: RolloutParams } },
    async (request) => {
      const rollout = await find(request, request.params);
      return (await store.history(rollout.id)).map(historyJson);
    },
  );

  app.get(
    `${one}/affected-devices`,
    {
      schema: {
        tags,
        summary: "Devices in the rollout's present share",
        params: RolloutParams,
        querystring: DevicesQuery,
      },
    },
    async (request) => {
      const rollout = await find(request, request.params);
      const { limit = 100, offset = 0, cursor } = request.query;
      const page = await rollouts.affectedDevices(rollout, {
        limit,
        offset,
        ...(cursor === undefined ? {} : { cursor }),
      });
      return {
        devices: page.devices.map(affectedJson),
        total: page.total,
        total_is_exact: page.totalIsExact,
        limit,
        offset: cursor === undefined ? offset : null,
        next_cursor: page.nextCursor,
      };
    },
  );

  app.delete(
    one,
    {
      schema: {
        tags,
        summary: 'Deletes a draft or ended rollout; with force also one that decides, which is rolled back first',
        params: RolloutParams,
        querystring: DeleteQuery,
      },
    },
    async (request) => {
      const { model } = await modelOf(request, 'rollouts:write', request.params.id);
      const deleted = await commands.delete(model.id, request.params.rid, request.query.force ?? false);
      return { ...rolloutJson(deleted), deleted: true };
    },
  );
}

type Figures = Record<string, unknown>;

/** Everybody who watches a rollout asks for the same figures, which cost more the more devices it has: they share them. */
function sharedFigures(rollouts: RolloutService): (rollout: Rollout) => Promise<Figures | undefined> {
  const asked = new Map<number, GatheredReads<Rollout, Figures>>();
  const read = async ([rollout]: readonly Rollout[]): Promise<ReadonlyMap<string, Figures>> => {
    if (rollout === undefined) return new Map();
    const [judgement, { total }] = await Promise.all([rollouts.judgement(rollout), rollouts.countAffected(rollout)]);
    return new Map(judgement === undefined ? [] : [[String(rollout.id), judgementJson(judgement, total)]]);
  };
  return async (rollout) => {
    const reads = asked.get(rollout.id) ?? new GatheredReads(({ id }: Rollout) => String(id), read);
    asked.set(rollout.id, reads);
    try {
      return await reads.get(rollout);
    } finally {
      if (reads.idle) asked.delete(rollout.id);
    }
  };
}

/** A person may be faster than a gate that waits, but not pass one that is breached. @throws `gate_breached` */
async function refuseBreach(rollouts: RolloutService, rollout: Rollout): Promise<void> {
  if (rollout.state !== 'active') return;
  const judgement = await rollouts.judgement(rollout);
  if (judgement === undefined || judgement.verdict.verdict !== 'breach') return;
  await rollouts.breach(rollout, judgement);
  const { gate, reason } = judgement.verdict;
  const done = judgement.gates.onBreach === 'pause' ? 'paused' : 'rolled back';
  throw new OctomilError('gate_breached', `rollout ${rollout.id} is ${done} instead: ${gate}: ${reason}`, {
    details: { rollout_id: rollout.id, gate, on_breach: judgement.gates.onBreach },
  });
}
