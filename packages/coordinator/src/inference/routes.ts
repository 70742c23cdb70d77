import { OctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { Database } from '../database/database.js';
import { type App, covers, requireScope, requireTokenScope, type Scope } from '../http/index.js';
import type { EventIntake } from './event-intake.js';
import { METRIC_GROUPS, type MetricGroup, readInferenceMetrics } from './inference-metrics.js';
import { readEvents } from './read-events.js';
import { PolicyBody, readPolicy, type ServedPolicy, writePolicy } from './routing-policy.js';

export interface QualityRoutesOptions {
  readonly database: Database;
  readonly intake: EventIntake;
  readonly nowMs: () => number;
}

const tags = ['inference'];
const Text = Type.Optional(Type.String({ minLength: 1, maxLength: 1000 }));
const MetricsQuery = Type.Object({
  model_id: Text,
  version: Text,
  device_id: Text,
  /** ISO 8601. Default: 24 hours before `to`. */
  from: Text,
  /** ISO 8601, exclusive. Default: now. */
  to: Text,
  /** Any of model, version, device, hour, separated by commas. Default `model,version`. */
  group_by: Type.Optional(Type.String({ maxLength: 100 })),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
});
const EventsBody = Type.Object({ events: Type.Optional(Type.Unknown()) });
const DAY_MS = 86_400_000;

/** Events of generations, what they add up to, and the policy by which clients choose models. */
export function registerQualityRoutes(app: App, { database, intake, nowMs }: QualityRoutesOptions): void {
  app.post(
    '/api/v1/inference/events',
    {
      config: { audit: false, idempotent: false },
      schema: { tags, summary: 'Say how generations went: one event, or a list of them', body: EventsBody },
    },
    async (request) => {
      const caller = callerOf(request, 'telemetry:write', 'cloud:inference', 'devices:heartbeat');
      const events = readEvents(request.body).map((event) =>
        // A device speaks for itself only.
        caller.deviceId === undefined ? event : { ...event, device_id: caller.deviceId },
      );
      const { organizationId, deviceId } = caller;
      const speaksForEnrolled = deviceId !== undefined || covers(request.principal?.scopes ?? [], 'devices:write');
      const isNew = await intake.store({ organizationId, speaksForEnrolled }, events);
      const accepted = isNew.filter(Boolean).length;
      return { status: 'accepted', accepted, duplicates: isNew.length - accepted };
    },
  );

  app.get(
    '/api/v1/inference/metrics',
    {
      schema: { tags, summary: 'How generations went, by model, version, device and hour', querystring: MetricsQuery },
    },
    async (request) => {
      const { organizationId } = requireScope(request, 'models:read');
      const { model_id: model, version, device_id: device, limit = 100 } = request.query;
      const to = timeOf('to', request.query.to) ?? new Date(nowMs() + 1);
      const from = timeOf('from', request.query.from) ?? new Date(to.getTime() - DAY_MS);
      // Figures are kept by the hour: the one that `from` is in counts whole.
      from.setUTCMinutes(0, 0, 0);
      if (from >= to) {
        throw new OctomilError('invalid_input', 'from must be before to', { details: { field: 'from' } });
      }
      const groups = groupsOf(request.query.group_by ?? 'model,version');
      const question = { organizationId, model, version, device, from, to, groups, limit };
      const metrics = await readInferenceMetrics(database, question);
      return { from: from.toISOString(), to: to.toISOString(), group_by: groups, metrics };
    },
  );

  app.get(
    '/api/v1/route/policy',
    { schema: { tags, summary: 'The policy by which clients choose a model for a query' } },
    async (request, reply) => {
      const { organizationId } = callerOf(request);
      const policy = await readPolicy(database, organizationId);
      reply.header('etag', policy.etag).header('cache-control', `private, max-age=${policy.body.ttl_seconds}`);
      const known = String(request.headers['if-none-match'] ?? '').split(',');
      if (known.some((one) => [policy.etag, `W/${policy.etag}`, '*'].includes(one.trim()))) {
        return reply.code(304).send();
      }
      return policy.body;
    },
  );

  app.put(
    '/api/v1/route/policy',
    { schema: { tags, summary: "Replace the organization's routing policy", body: PolicyBody } },
    async (request, reply) => {
      const { organizationId } = requireScope(request, 'models:write');
      const { body, etag }: ServedPolicy = await writePolicy(database, organizationId, request.body);
      reply.header('etag', etag);
      return body;
    },
  );
}

/** Who acts: a device for itself, or a key with one of the scopes (any key without them). @throws `forbidden` */
export function callerOf(
  request: FastifyRequest,
  ...scopes: readonly Scope[]
): { readonly organizationId: string; readonly deviceId: string | undefined } {
  const { principal } = request;
  if (principal?.kind === 'device') {
    if (scopes.length > 0) requireTokenScope(principal, ...scopes);
    return { organizationId: principal.organizationId, deviceId: principal.deviceId };
  }
  const [first] = scopes;
  if (principal !== undefined && first === undefined) {
    return { organizationId: principal.organizationId, deviceId: undefined };
  }
  const held = principal?.scopes ?? [];
  const { organizationId } = requireScope(request, scopes.find((scope) => held.includes(scope)) ?? first ?? 'admin');
  return { organizationId, deviceId: undefined };
}

function timeOf(field: string, text: string | undefined): Date | undefined {
  if (text === undefined) return undefined;
  const time = new Date(text);
  // Earlier and later there are no events, and JavaScript knows years that PostgreSQL does not.
  if (time.getTime() >= 0 && time.getUTCFullYear() <= 9999) return time;
  throw new OctomilError('invalid_input', `${field} is "${text.slice(0, 60)}"; write it like 2026-01-31T12:00:00Z`, {
    details: { field },
  });
}

function groupsOf(text: string): MetricGroup[] {
  const names = text.split(',').filter((name) => name !== '');
  return [...new Set(names)].map((name) => {
    const known = METRIC_GROUPS.find((group) => group === name);
    if (known !== undefined) return known;
    throw new OctomilError(
      'invalid_input',
      `group_by has "${name.slice(0, 60)}"; there are ${METRIC_GROUPS.join(', ')}`,
      { details: { field: 'group_by' } },
    );
  });
}
