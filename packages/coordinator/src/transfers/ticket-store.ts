import { randomBytes, randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { PartUpload } from '@octomil/shared/storage';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';
import { hashSecret, sameHash } from '../devices/device-credential.js';
import type { UpdateHeaderFields, Verdict } from '../training/assignment-port.js';
import { cutIntoParts, type PartLayout } from './part-layout.js';

export interface Ticket {
  readonly id: string;
  readonly deviceId: string;
  readonly header: UpdateHeaderFields;
  readonly layout: PartLayout;
  /** Of a completed upload. */
  readonly verdict: Verdict | undefined;
  readonly expiresInMs: number;
}

export interface IssuedTicket extends Ticket {
  /** Secret; only its hash is kept, so every answer carries a new one and the one before stops working. */
  readonly token: string;
}

interface StoredHeader extends Record<string, unknown> {
  readonly update: UpdateHeaderFields;
  readonly verdict?: Verdict;
  /** Its parts may go straight to the bucket. */
  readonly direct?: PartUpload;
}

/** Rows of upload tickets. Times are the database's. */
export class TicketStore {
  readonly #database: Database;
  readonly #partSizeBytes: number;
  readonly #lifetimeMs: number;

  constructor(database: Database, partSizeBytes: number, lifetimeMs: number) {
    this.#database = database;
    this.#partSizeBytes = partSizeBytes;
    this.#lifetimeMs = lifetimeMs;
  }

  #expiry(): RawBuilder<Date> {
    return sql<Date>`now() + ${this.#lifetimeMs}::double precision * interval '1 millisecond'`;
  }

  /** What became of these very bytes, if they were completed under a ticket before. */
  async verdictOn(deviceId: string, header: UpdateHeaderFields): Promise<Verdict | undefined> {
    const rows = await this.#database.kysely
      .selectFrom('upload_tickets')
      .select('header')
      .where('assignment_id', '=', header.key.assignmentId)
      .where('device_id', '=', deviceId)
      .where('sha256', '=', header.sha256)
      .where('size_bytes', '=', header.sizeBytes)
      .where('state', '=', 'completed')
      .execute();
    const stored = rows.map((row) => row.header as unknown as StoredHeader);
    return stored.find(({ update }) => update.key.attempt === header.key.attempt)?.verdict;
  }

  /**
   * A ticket for this header: the one that is open already for the same assignment, size and digest, or a new one.
   * Tickets for other bytes of the same assignment are given up; their ids are answered as `abandoned`.
   */
  async issue(deviceId: string, header: UpdateHeaderFields): Promise<{ ticket: IssuedTicket; abandoned: string[] }> {
    const layout = cutIntoParts(header.sizeBytes, this.#partSizeBytes);
    const token = randomBytes(32).toString('base64url');
    const stored = JSON.stringify({ update: header } satisfies StoredHeader);
    return this.#database.transact(async (transaction) => {
      const mine = transaction
        .updateTable('upload_tickets')
        .where('assignment_id', '=', header.key.assignmentId)
        .where('device_id', '=', deviceId)
        .where('state', '=', 'open');
      const abandoned = await mine
        .set({ state: 'abandoned' })
        .where((where) => where.or([where('sha256', '!=', header.sha256), where('size_bytes', '!=', header.sizeBytes)]))
        .returning('id')
        .execute();
      const again = await mine
        // What is known of an upload to the bucket stays.
        .set({
          token_hash: hashSecret(token),
          header: sql`header::jsonb || ${stored}::jsonb`,
          expires_at: this.#expiry(),
        })
        .returning(['id', 'part_size_bytes', 'part_count'])
        .executeTakeFirst();
      const id = again?.id ?? randomUUID();
      if (again === undefined) {
        await transaction
          .insertInto('upload_tickets')
          .values({
            id,
            assignment_id: header.key.assignmentId,
            device_id: deviceId,
            token_hash: hashSecret(token),
            header: stored,
            size_bytes: header.sizeBytes,
            sha256: header.sha256,
            part_size_bytes: layout.partSizeBytes,
            part_count: layout.partCount,
            state: 'open',
            expires_at: this.#expiry(),
          })
          .execute();
      }
      const cut: PartLayout =
        again === undefined
          ? layout
          : { sizeBytes: header.sizeBytes, partSizeBytes: again.part_size_bytes, partCount: again.part_count };
      const ticket = { id, deviceId, header, layout: cut, verdict: undefined, expiresInMs: this.#lifetimeMs, token };
      return { ticket, abandoned: abandoned.map((row) => row.id) };
    });
  }

  /**
   * @param deviceId the device that asks, where the connection has proved one
   * @throws `ticket_invalid` for an unknown ticket, another's or a wrong token; `ticket_expired`
   */
  async find(ticketId: string, token: string, deviceId?: string): Promise<Ticket> {
    const row = await this.#database.kysely
      .selectFrom('upload_tickets')
      .selectAll()
      .select(sql<number>`(extract(epoch from expires_at - now()) * 1000)::double precision`.as('expires_in_ms'))
      .where('id', '=', ticketId)
      .executeTakeFirst();
    if (
      row === undefined ||
      !sameHash(hashSecret(token), row.token_hash) ||
      (deviceId ?? row.device_id) !== row.device_id
    ) {
      throw new OctomilError(
        'ticket_invalid',
        `upload ticket ${ticketId.slice(0, 64)} is not valid with this token and device; ask for a ticket on the session and use the newest token`,
      );
    }
    const { update: header, verdict } = row.header as unknown as StoredHeader;
    if (row.state === 'abandoned' || (row.state === 'open' && row.expires_in_ms <= 0)) {
      throw new OctomilError(
        'ticket_expired',
        `upload ticket ${row.id} expired at ${row.expires_at.toISOString()} or was replaced; ask again on the session, parts that have arrived are kept where they can be`,
        { details: { ticketId: row.id } },
      );
    }
    return {
      id: row.id,
      deviceId: row.device_id,
      header,
      layout: { sizeBytes: row.size_bytes, partSizeBytes: row.part_size_bytes, partCount: row.part_count },
      verdict: row.state === 'completed' ? verdict : undefined,
      expiresInMs: Math.max(0, Math.round(row.expires_in_ms)),
    };
  }

  async complete(ticket: Ticket, verdict: Verdict): Promise<void> {
    const header: StoredHeader = { update: ticket.header, verdict };
    await this.#database.kysely
      .updateTable('upload_tickets')
      .set({ state: 'completed', header: sql`header::jsonb || ${JSON.stringify(header)}::jsonb` })
      .where('id', '=', ticket.id)
      .where('state', '=', 'open')
      .execute();
  }

  async abandon(ticketId: string): Promise<void> {
    await this.#database.kysely
      .updateTable('upload_tickets')
      .set({ state: 'abandoned' })
      .where('id', '=', ticketId)
      .where('state', '=', 'open')
      .execute();
  }

  /** The upload to the bucket that was begun for a ticket. */
  async directOf(ticketId: string): Promise<PartUpload | undefined> {
    const row = await this.#database.kysely
      .selectFrom('upload_tickets')
      .select('header')
      .where('id', '=', ticketId)
      .executeTakeFirst();
    return (row?.header as unknown as StoredHeader | undefined)?.direct;
  }

  async rememberDirect(ticketId: string, upload: PartUpload): Promise<void> {
    await this.#database.kysely
      .updateTable('upload_tickets')
      .set({ header: sql`header::jsonb || ${JSON.stringify({ direct: upload })}::jsonb` })
      .where('id', '=', ticketId)
      .execute();
  }

  async forgetDirect(ticketId: string): Promise<void> {
    await this.#database.kysely
      .updateTable('upload_tickets')
      .set({ header: sql`header::jsonb - 'direct'` })
      .where('id', '=', ticketId)
      .execute();
  }

  /** Tickets that are over and may still have something in the bucket; at most 100. */
  async settledWithDirect(): Promise<string[]> {
    const rows = await this.#database.kysely
      .selectFrom('upload_tickets')
      .select('id')
      .where('state', '!=', 'open')
      .where(sql<boolean>`header::jsonb -> 'direct' is not null`)
      .limit(100)
      .execute();
    return rows.map(({ id }) => id);
  }

  /** Gives up what has expired, then answers which of `ticketIds` are still open. */
  async stillOpen(ticketIds: readonly string[]): Promise<Set<string>> {
    await this.#database.kysely
      .updateTable('upload_tickets')
      .set({ state: 'abandoned' })
      .where('state', '=', 'open')
      .where('expires_at', '<', sql<Date>`now()`)
      .execute();
    if (ticketIds.length === 0) return new Set();
    const rows = await this.#database.kysely
      .selectFrom('upload_tickets')
      .select('id')
      .where('id', 'in', ticketIds)
      .where('state', '=', 'open')
      .execute();
    return new Set(rows.map(({ id }) => id));
  }
}
