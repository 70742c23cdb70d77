import { OctomilError } from '@octomil/shared/errors';
import type { Logger } from '@octomil/shared/runtime';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { JsonObject } from '../database/tables.js';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import { awaitSession } from './await-session.js';
import { drained, whenClosed } from './connection.js';
import type { TrainingEngine } from './engine.js';
import { type EventSink, streamEvents } from './event-stream.js';
import { memberDriftRound, memberRoundView, memberSessionView } from './member-view.js';
import { roundNotFound } from './session-service.js';
import { type AssignmentListRow, type SessionRow, sessionNotFound } from './session-store.js';
import { driftRounds } from './site-drift.js';
import { assignmentView, roundView, sessionView } from './views.js';

/** Nobody sees so short a delay. */
const EVENTS_PAUSE_MS = 10;

const Id = Type.Object({ id: Type.String({ maxLength: 200 }) });
const Model = Type.Object({ model_id: Type.String({ maxLength: 200 }) });
const Page = Type.Object({
  model_id: Type.Optional(Type.String()),
  federation: Type.Optional(Type.String()),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000 })),
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 })),
});
const tags = ['training'];
/** A dry run without a session. */
const NOBODY_ASKED = {
  session_id: null,
  status: 'completed',
  reason_code: null,
  reason: null,
  columns: [],
  warnings: [],
  feature_spec: null,
  input_width: null,
  problem: null,
} as const;
const UNABLE: ReadonlySet<string> = new Set(['refused', 'failed', 'expired']);

/** REST routes of training: sessions, their rounds and events, and the status of a model's training. */
export function registerTrainingRoutes(
  app: App,
  { engine, logger }: { readonly engine: TrainingEngine; readonly logger: Logger },
): void {
  const { sessions, store } = engine;

  const findSession = async (request: FastifyRequest, id: string, write = false): Promise<SessionRow> => {
    const { organizationId } = requireScope(request, write ? 'training:write' : 'training:read');
    const [row] = await store.findSessions({ organizationId, id, orMember: true });
    // A session of another organization is answered like one that does not exist, outside its federation.
    if (row === undefined) throw sessionNotFound(id);
    if (write && row.organizationId !== organizationId) {
      throw new OctomilError(
        'forbidden',
        `training session ${id} is another member's of federation "${row.federationName}"; only the organization that began it may change it`,
      );
    }
    return row;
  };
  const isOwn = (request: FastifyRequest, row: SessionRow): boolean =>
    row.organizationId === request.principal?.organizationId;
  const viewFor = (request: FastifyRequest, row: SessionRow): JsonObject =>
    isOwn(request, row) ? sessionView(row) : memberSessionView(row);
  const show = async (request: FastifyRequest, id: string): Promise<JsonObject> =>
    viewFor(request, await findSession(request, id));

  /** Sites that were asked in a dry run and could not answer, or would not. */
  const unableSites = async (roundId: unknown): Promise<ReadonlyMap<string, AssignmentListRow>> => {
    const asked = typeof roundId === 'string' ? await store.assignments(roundId) : [];
    return new Map(asked.filter(({ state }) => UNABLE.has(state)).map((row) => [row.deviceId, row]));
  };

  app.post(
    '/api/v1/training/sessions',
    { schema: { summary: 'Begin a training session', tags } },
    async (request, reply) => {
      const { organizationId, keyId } = requireScope(request, 'training:write');
      const created = await sessions.create(request.body, { organizationId, name: keyId });
      reply.code(201);
      return show(request, created.id);
    },
  );

  app.get(
    '/api/v1/training/sessions',
    { schema: { summary: 'List training sessions, newest first', tags, querystring: Page } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:read');
      const { model_id: model, federation, limit = 100, offset = 0 } = request.query;
      const rows = await store.findSessions({
        organizationId,
        orMember: true,
        limit,
        offset,
        ...(model === undefined ? {} : { modelId: (await sessions.model(organizationId, model)).id }),
        ...(federation === undefined
          ? {}
          : { federationId: (await sessions.federation(organizationId, federation)).id }),
      });
      return { sessions: rows.map((row) => viewFor(request, row)), limit, offset };
    },
  );

  app.post(
    '/api/v1/training/sessions/dry-run',
    {
      config: { audit: false },
      schema: { summary: 'What a session would do: devices, data sets and what stands in the way', tags },
    },
    async (request) => {
      const { organizationId, keyId } = requireScope(request, 'training:write');
      const caller = { organizationId, name: keyId };
      const { eligible, refused, federation } = await sessions.sites(request.body, caller);
      const unwilling = refused.map((site) => ({
        device_id: site.deviceId,
        name: site.name,
        eligible: false,
        data_set: null,
        row_count: null,
        reason_code: site.rule,
        reason: site.reason,
      }));
      // Nobody to ask: a name that may be mistyped is not kept for it.
      if (federation.isNew === true && eligible.length === 0) return { ...NOBODY_ASKED, sites: unwilling };
      const { id } = await sessions.create(request.body, caller, { dryRun: true });
      const closed = whenClosed(request.raw.socket);
      try {
        await awaitSession(engine, id, closed.signal);
      } finally {
        closed.release();
      }
      const view = await show(request, id);
      const report = view['report'] as JsonObject | null;
      const unable = await unableSites(view['round_id']);
      return {
        session_id: id,
        status: view['status'],
        reason_code: view['reason_code'],
        reason: view['reason'],
        ...report,
        sites: [
          ...eligible.map((site) => ({
            device_id: site.deviceId,
            name: site.name,
            eligible: !unable.has(site.deviceId),
            data_set: site.dataSet,
            row_count: site.rowCount,
            reason_code: unable.get(site.deviceId)?.reasonCode ?? null,
            reason: unable.get(site.deviceId)?.reason ?? null,
          })),
          ...unwilling,
        ],
      };
    },
  );

  app.get(
    '/api/v1/training/sessions/:id',
    { schema: { summary: 'A session, its rounds and its result', tags, params: Id } },
    async (request) => show(request, request.params.id),
  );

  app.get(
    '/api/v1/training/sessions/:id/events',
    { schema: { summary: 'What happens in a session, as server-sent events', tags, params: Id } },
    async (request, reply) => {
      const session = await findSession(request, request.params.id);
      const { id } = session;
      if (!isOwn(request, session)) {
        throw new OctomilError(
          'forbidden',
          `events name sites, so that only the organization that began session ${id} follows them; ask for GET /api/v1/training/sessions/${id}`,
        );
      }
      const afterId = lastEventId(request);
      const over = await endedBefore(engine, id, afterId);
      // 204 tells an EventSource not to come back (HTML Living Standard, 9.2.3).
      if (over) return reply.code(204).send();
      await sendEvents({ engine, logger }, reply, id, afterId);
      return reply;
    },
  );

  app.post(
    '/api/v1/training/sessions/:id/pause',
    { schema: { summary: 'Begin no further round', tags, params: Id } },
    async (request) => {
      const { id } = await findSession(request, request.params.id, true);
      await sessions.pause(organizationOf(request), id);
      return show(request, id);
    },
  );

  app.post(
    '/api/v1/training/sessions/:id/resume',
    { schema: { summary: 'Go on with a paused session', tags, params: Id } },
    async (request) => {
      const { id } = await findSession(request, request.params.id, true);
      await sessions.resume(organizationOf(request), id);
      return show(request, id);
    },
  );

  app.post(
    '/api/v1/training/sessions/:id/cancel',
    { schema: { summary: 'End a session; its checkpoints stay', tags, params: Id } },
    async (request) => {
      const { id } = await findSession(request, request.params.id, true);
      await sessions.cancel(organizationOf(request), id);
      return show(request, id);
    },
  );

  app.get(
    '/api/v1/training/sessions/:id/rounds',
    { schema: { summary: 'The rounds of a session', tags, params: Id } },
    async (request) => {
      const session = await findSession(request, request.params.id);
      const rows = await store.rounds(session.id);
      const view = isOwn(request, session) ? roundView : memberRoundView;
      return { rounds: rows.map((row) => view(row, rows)) };
    },
  );

  app.get(
    '/api/v1/training/sessions/:id/drift',
    {
      schema: {
        summary:
          'How far the rows of each site are from what the feature spec was made of, and what has changed, round by round',
        tags,
        params: Id,
      },
    },
    async (request) => {
      const session = await findSession(request, request.params.id);
      const rounds = driftRounds(await store.rounds(session.id));
      return {
        session_id: session.id,
        feature_spec_hash: session.featureSpecHash,
        drifted: rounds.some((round) => Number(round['drifted_sites']) > 0),
        changed: rounds.some((round) => Number(round['changed_sites']) > 0),
        rounds: isOwn(request, session) ? rounds : rounds.map(memberDriftRound),
      };
    },
  );

  const showRound = async (request: FastifyRequest, roundId: string, write = false): Promise<JsonObject> => {
    const sessionId = await store.sessionOfRound(roundId);
    if (sessionId === undefined) {
      requireScope(request, 'training:read');
      throw roundNotFound(roundId);
    }
    const session = await findSession(request, sessionId, write).catch((error: unknown) => {
      throw error instanceof OctomilError && error.code === 'not_found' ? roundNotFound(roundId) : error;
    });
    const rows = await store.roundAndNext(roundId);
    const row = rows.find(({ id }) => id === roundId);
    if (row === undefined) throw roundNotFound(roundId);
    const asked = await store.assignments(roundId);
    if (isOwn(request, session)) return { ...roundView(row, rows), assignments: asked.map(assignmentView) };
    const own = asked.filter(({ organizationId }) => organizationId === request.principal?.organizationId);
    return { ...memberRoundView(row, rows), assignments: own.map(assignmentView) };
  };

  app.get(
    '/api/v1/training/rounds/:id',
    { schema: { summary: 'A round: devices, updates and metrics', tags, params: Id } },
    async (request) => showRound(request, request.params.id),
  );

  app.post(
    '/api/v1/training/rounds/:id/retry',
    { schema: { summary: 'Try a round again that had too few updates', tags, params: Id } },
    async (request) => {
      await showRound(request, request.params.id, true);
      await sessions.retryRound(organizationOf(request), request.params.id);
      return showRound(request, request.params.id);
    },
  );

  app.post(
    '/api/v1/training/rounds/:id/abort',
    { schema: { summary: 'End a round without its updates', tags, params: Id } },
    async (request) => {
      await showRound(request, request.params.id, true);
      await sessions.abortRound(organizationOf(request), request.params.id);
      return showRound(request, request.params.id);
    },
  );

  app.get(
    '/api/v1/training/:model_id/status',
    { schema: { summary: 'How the training of a model goes', tags, params: Model } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:read');
      const model = await sessions.model(organizationId, request.params.model_id);
      const [latest] = await store.findSessions({ organizationId, modelId: model.id, limit: 1 });
      if (latest === undefined) {
        return { model_id: model.id, status: 'idle', current_round: 0, total_rounds: 0, active_devices: 0 };
      }
      const view = sessionView(latest);
      const assignments = latest.round === null ? [] : await store.assignments(latest.round.id);
      const overall = (view['metrics'] as { overall: JsonObject | null } | null)?.overall;
      return {
        ...view,
        active_devices: assignments.filter(({ state }) => state === 'open' || state === 'accepted').length,
        loss: overall?.['loss'] ?? null,
        accuracy: overall?.['accuracy'] ?? null,
      };
    },
  );

  app.post(
    '/api/v1/training/:model_id/stop',
    { schema: { summary: 'End the training of a model', tags, params: Model } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:write');
      const { lastRound, sessions: stopped } = await sessions.stopModel(organizationId, request.params.model_id);
      return { status: 'stopped', last_round: lastRound, sessions: stopped };
    },
  );
}

function organizationOf(request: FastifyRequest): string {
  return requireScope(request, 'training:write').organizationId;
}

/** @throws `invalid_input` for an identifier that no event has */
function lastEventId(request: FastifyRequest): number {
  const header = request.headers['last-event-id'];
  if (header === undefined || header === '') return 0;
  const id = Number(header);
  if (Number.isSafeInteger(id) && id >= 0) return id;
  throw new OctomilError(
    'invalid_input',
    `Last-Event-ID "${String(header).slice(0, 100)}" is not an event's identifier`,
  );
}

async function endedBefore(engine: TrainingEngine, sessionId: string, afterId: number): Promise<boolean> {
  if (afterId === 0) return false;
  const [last] = await engine.events.read(sessionId, afterId - 1, 1);
  return last?.id === afterId && last.type === 'end';
}

async function sendEvents(
  { engine, logger }: { readonly engine: TrainingEngine; readonly logger: Logger },
  reply: FastifyReply,
  sessionId: string,
  afterId: number,
): Promise<void> {
  reply.hijack();
  const { raw } = reply;
  const gone = new AbortController();
  raw.once('close', () => gone.abort());
  raw.on('error', () => gone.abort());
  for (const [name, value] of Object.entries(reply.getHeaders())) if (value !== undefined) raw.setHeader(name, value);
  raw.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    // Buffering proxies would hold events back.
    'x-accel-buffering': 'no',
  });
  raw.write(': follow\n\n');
  const sink: EventSink = {
    write: (text) => raw.write(text),
    drained: () => drained(raw, gone.signal),
  };
  try {
    await streamEvents(engine.events, sink, {
      sessionId,
      afterId,
      clock: engine.clock,
      signal: gone.signal,
      pauseMs: EVENTS_PAUSE_MS,
    });
  } catch (error) {
    logger.error({ error, sessionId }, 'a stream of events broke');
  } finally {
    raw.end();
  }
}
