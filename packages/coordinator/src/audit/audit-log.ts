import { type Kysely, type RawBuilder, type Selectable, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { AuditEntriesTable, Tables } from '../database/tables.js';

export type AuditRow = Selectable<AuditEntriesTable>;

/** One change: who, what, from where. Never secrets, and no values of fields that may hold them. */
export interface AuditEntry {
  readonly organizationId: string;
  /** `key:<id>`, `device:<id>` or `coordinator`. */
  readonly actor: string;
  /** Such as `POST /api/v1/models`, or `rollout.rolled_back` for what the coordinator did by itself. */
  readonly action: string;
  /** Such as `models/<id>`. */
  readonly resource: string;
  readonly details?: Readonly<Record<string, unknown>>;
  readonly remoteAddress?: string;
  readonly requestId?: string;
}

export interface AuditFilter {
  readonly actor?: string;
  /** The resource itself and what is under it: `models/a` also finds `models/a/versions/1.0.0`. */
  readonly resource?: string;
  readonly action?: string;
  readonly since?: Date;
  /** Exclusive. */
  readonly until?: Date;
  /** Only entries before this one: the cursor of paging. */
  readonly beforeId?: number;
  readonly limit: number;
}

export interface AuditLog {
  /** Resolves when the row is stored; within `transaction`, when that commits. */
  record(entry: AuditEntry, transaction?: Kysely<Tables>): Promise<void>;
  /** Newest first. */
  list(organizationId: string, filter: AuditFilter): Promise<AuditRow[]>;
}

/** The statement that stores an entry, also as a part of another statement. */
export function insertEntry(entry: AuditEntry): RawBuilder<unknown> {
  const { organizationId, actor, action, resource, details = {}, remoteAddress = null, requestId = null } = entry;
  return sql`insert into audit_entries (organization_id, actor, action, resource, details, remote_address, request_id)
    values (${organizationId}, ${actor}, ${action}, ${resource}, ${JSON.stringify(details)}::text::jsonb,
      ${remoteAddress}, ${requestId})`;
}

/** The log of every change, one row each. Rows are never changed; how long they are kept is the operator's matter. */
export function createAuditLog({ database }: { readonly database: Database }): AuditLog {
  return {
    async record(entry, transaction = database.kysely) {
      await insertEntry(entry).execute(transaction);
    },

    list(organizationId, { actor, resource, action, since, until, beforeId, limit }) {
      let query = database.kysely.selectFrom('audit_entries').selectAll().where('organization_id', '=', organizationId);
      if (actor !== undefined) query = query.where('actor', '=', actor);
      if (action !== undefined) query = query.where('action', '=', action);
      if (resource !== undefined) {
        const below = `${resource.replace(/[\\%_]/g, '\\$&')}/%`;
        query = query.where((e) => e.or([e('resource', '=', resource), e('resource', 'like', below)]));
      }
      if (since !== undefined) query = query.where('created_at', '>=', since);
      if (until !== undefined) query = query.where('created_at', '<', until);
      if (beforeId !== undefined) query = query.where('id', '<', beforeId);
      return query.orderBy('id', 'desc').limit(limit).execute();
    },
  };
}
