import { OctomilError } from '@octomil/shared/errors';
import { Type } from 'typebox';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import type { AuditFilter, AuditLog, AuditRow } from './audit-log.js';

const DEFAULT_LIMIT = 100;
const Text = Type.Optional(Type.String({ minLength: 1, maxLength: 1000 }));
const ListQuery = Type.Object({
  actor: Text,
  resource: Text,
  action: Text,
  since: Text,
  until: Text,
  cursor: Type.Optional(Type.String({ pattern: '^[0-9]{1,15}$' })),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
});
const Entry = Type.Object({
  id: Type.String(),
  created_at: Type.String({ format: 'date-time' }),
  actor: Type.String(),
  action: Type.String(),
  resource: Type.String(),
  details: Type.Record(Type.String(), Type.Unknown()),
  remote_address: Type.Union([Type.String(), Type.Null()]),
  request_id: Type.Union([Type.String(), Type.Null()]),
});
const Page = Type.Object({ entries: Type.Array(Entry), next_cursor: Type.Union([Type.String(), Type.Null()]) });

/** The audit log of the caller's organization, for its admin keys. */
export function registerAuditRoutes(app: App, { audit }: { readonly audit: AuditLog }): void {
  const schema = {
    summary: 'List changes, newest first: who, what, from where',
    tags: ['audit'],
    querystring: ListQuery,
    response: { 200: Page },
  };
  app.get('/api/v1/audit', { schema }, async (request) => {
    const { organizationId } = requireScope(request, 'admin');
    const { since, until, cursor, limit = DEFAULT_LIMIT, ...exact } = request.query;
    const filter: AuditFilter = {
      ...exact,
      ...(since === undefined ? {} : { since: time('since', since) }),
      ...(until === undefined ? {} : { until: time('until', until) }),
      ...(cursor === undefined ? {} : { beforeId: Number(cursor) }),
      // One more tells whether there is a next page.
      limit: limit + 1,
    };
    const rows = await audit.list(organizationId, filter);
    const page = rows.slice(0, limit);
    return {
      entries: page.map(entryJson),
      next_cursor: rows.length > limit ? String(page.at(-1)?.id) : null,
    };
  });
}

function entryJson(row: AuditRow) {
  const { id, created_at, actor, action, resource, details, remote_address, request_id } = row;
  return {
    id: String(id),
    created_at: created_at.toISOString(),
    actor,
    action,
    resource,
    details,
    remote_address,
    request_id,
  };
}

function time(field: string, value: string): Date {
  const date = new Date(value);
  // PostgreSQL has no year 0.
  if (/^(?!0000)\d{4}-\d\d-\d\d/.test(value) && !Number.isNaN(date.getTime())) return date;
  throw new OctomilError('invalid_input', `querystring: ${field} must be a time such as 2026-01-31T12:00:00Z`, {
    details: { field },
  });
}
