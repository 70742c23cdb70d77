import { formatTargetRule, parseTargetRule } from '@octomil/shared/features';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import { type App, requireScope } from '../http/index.js';
import { type TrainingEngine, whenClosed } from '../training/index.js';
import { memberProposalJson, proposalJson, summaryJson } from './proposal-json.js';
import type { ProposalService } from './proposal-service.js';
import type { Proposal } from './proposal-store.js';

const tags = ['features'];
const Name = Type.String({ minLength: 1, maxLength: 1000 });
const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
const Params = Type.Object({ id: Type.String({ maxLength: 200 }) });
const States = Type.Union(
  (['proposed', 'confirmed', 'superseded', 'rejected'] as const).map((state) => Type.Literal(state)),
);
const ProposeBody = Type.Object(
  {
    model: Name,
    federation: OrNull(Name),
    // Makes the federation of this name where there is none, once there are sites to ask.
    create_federation: OrNull(Type.Boolean()),
    target: OrNull(Name),
    architecture: OrNull(Type.Union([Type.String(), Type.Record(Type.String(), Type.Unknown())])),
    hints: OrNull(Type.Record(Type.String(), Type.Record(Type.String(), Type.Unknown()))),
    missing_markers: OrNull(Type.Record(Type.String(), Type.Array(Type.Union([Type.String(), Type.Number()])))),
    exclude: OrNull(Type.Array(Type.String(), { maxItems: 10_000 })),
    data_set: OrNull(Type.String({ maxLength: 200 })),
    selector: OrNull(Type.Record(Type.String(), Type.String())),
  },
  { additionalProperties: false },
);
const ConfirmBody = Type.Optional(
  Type.Union([
    Type.Object({ spec: OrNull(Type.Record(Type.String(), Type.Unknown())) }, { additionalProperties: false }),
    Type.Null(),
  ]),
);
const RejectBody = Type.Optional(
  Type.Union([
    Type.Object({ reason: OrNull(Type.String({ maxLength: 1000 })) }, { additionalProperties: false }),
    Type.Null(),
  ]),
);
const ListQuery = Type.Object({
  model: Type.Optional(Name),
  federation: Type.Optional(Name),
  target: Type.Optional(Name),
  state: Type.Optional(States),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000 })),
});

export interface FeatureRoutesOptions {
  readonly proposals: ProposalService;
  readonly engine: Pick<TrainingEngine, 'sessions'>;
}

/** How rows become numbers: proposed by what sites tell, looked at, edited and confirmed by people. */
export function registerFeatureRoutes(app: App, { proposals, engine }: FeatureRoutesOptions): void {
  const base = '/api/v1/features/proposals';
  const { store } = proposals;
  const asker = (request: FastifyRequest) => {
    const { organizationId, keyId } = requireScope(request, 'training:write');
    return { organizationId, name: keyId };
  };
  const view = (request: FastifyRequest, proposal: Proposal) =>
    request.principal?.organizationId === proposal.organizationId
      ? proposalJson(proposal)
      : memberProposalJson(proposal);

  app.post(
    base,
    {
      schema: {
        summary: 'Let the sites describe their columns and propose how rows become numbers',
        tags,
        body: ProposeBody,
      },
    },
    async (request, reply) => {
      const closed = whenClosed(request.raw.socket);
      try {
        const made = await proposals.propose(request.body, asker(request), closed.signal);
        return reply.code(201).send(view(request, made));
      } finally {
        closed.release();
      }
    },
  );

  app.get(
    base,
    { schema: { summary: 'List proposals of features, newest first', tags, querystring: ListQuery } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:read');
      const { model, federation, target, limit = 100, offset = 0, state } = request.query;
      const found = await store.list({
        organizationId,
        limit,
        offset,
        state,
        ...(target === undefined ? {} : { target: formatTargetRule(parseTargetRule(target)) }),
        ...(model === undefined ? {} : { modelId: (await engine.sessions.model(organizationId, model)).id }),
        ...(federation === undefined
          ? {}
          : { federationId: (await engine.sessions.federation(organizationId, federation)).id }),
      });
      return { proposals: found.map(summaryJson), limit, offset };
    },
  );

  app.get(
    `${base}/:id`,
    { schema: { summary: 'A proposal: columns, coverage, what is left out and why', tags, params: Params } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:read');
      return view(request, await store.get(organizationId, request.params.id));
    },
  );

  app.post(
    `${base}/:id/confirm`,
    {
      schema: {
        summary: 'Confirm a proposal, as it is or as edited; the one confirmed before is superseded',
        tags,
        params: Params,
        body: ConfirmBody,
      },
    },
    async (request) => {
      const spec = request.body?.spec ?? undefined;
      const confirmed = await proposals.confirm(request.params.id, spec, asker(request));
      request.auditNote = { details: { spec_hash: confirmed.spec.hash, edited: spec !== undefined } };
      const { sessions } = engine;
      const fresh = await sessions.needsFreshWeights(confirmed.model, confirmed.spec);
      // What a session by it starts from; null: the newest version, as always.
      return { ...view(request, confirmed), base_version: fresh ? 'initial' : null };
    },
  );

  app.post(
    `${base}/:id/reject`,
    {
      schema: { summary: 'Reject a proposal, or take its confirmation back', tags, params: Params, body: RejectBody },
    },
    async (request) => {
      const reason = request.body?.reason ?? null;
      return view(request, await proposals.reject(request.params.id, reason, asker(request)));
    },
  );
}
