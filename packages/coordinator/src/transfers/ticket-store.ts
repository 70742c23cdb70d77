import { randomBytes, randomUUID } from 'node:crypto';
import { type ErrorBody, OctomilError } from '@octomil/shared/errors';
import type { PartUpload } from '@octomil/shared/storage';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';
import { hashSecret, sameHash } from '../devices/device-credential.js';
import type { UpdateHeaderFields, Verdict } from '../training/assignment-port.js';
import { ArrivingRows, inMs } from './arriving-rows.js';
import { cutIntoParts, type PartLayout } from './part-layout.js';

export interface Ticket {
  readonly id: string;
  readonly deviceId: string;
  readonly header: UpdateHeaderFields;
  readonly layout: PartLayout;
  readonly state: 'open' | 'arrived' | 'completed';
  /** Why what came under it before does not count; its parts may be sent again. */
  readonly problem: OctomilError | undefined;
  /** Of a completed upload. */
  readonly verdict: Verdict | undefined;
  readonly expiresInMs: number;
}

export interface IssuedTicket extends Ticket {
  /** Secret; only its hash is kept, so every answer carries a new one and the one before stops working. */
  readonly token: string;
}

/** A ticket whose bytes in the bucket are this process's to check, until the lease ends. */
export type ClaimedTicket = Ticket & {
  /** With this one. */
  readonly attempts: number;
};

interface StoredHeader extends Record<string, unknown> {
  readonly update: UpdateHeaderFields;
  readonly verdict?: Verdict;
  /** Its parts may go straight to the bucket. */
  readonly direct?: PartUpload;
}

/** Rows of upload tickets. Times are the database's. */
export class TicketStore extends ArrivingRows {
  readonly #database: Database;
  readonly #partSizeBytes: number;
  readonly #lifetimeMs: number;

  constructor(database: Database, partSizeBytes: number, lifetimeMs: number) {
    super(database, 'upload_tickets');
    this.#database = database;
    this.#partSizeBytes = partSizeBytes;
    this.#lifetimeMs = lifetimeMs;
  }

  #expiry(): RawBuilder<Date> {
    return inMs(this.#lifetimeMs);
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
        .where('state', 'in', ['open', 'arrived']);
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
          problem: sql`case when state = 'arrived' then problem end`,
        })
        .returning(['id', 'part_size_bytes', 'part_count', 'state'])
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
      const state = again?.state === 'arrived' ? ('arrived' as const) : ('open' as const);
      const shared = { deviceId, header, verdict: undefined, problem: undefined, expiresInMs: this.#lifetimeMs };
      const ticket = { id, layout: cut, state, token, ...shared };
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
    const problem = problemOf(row.problem);
    if (row.state === 'abandoned' && problem !== undefined) throw problem;
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
      state: row.state,
      problem,
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
      .where('state', 'in', ['open', 'arrived'])
      .execute();
  }

  async abandon(ticketId: string, problem?: OctomilError): Promise<void> {
    await this.#database.kysely
      .updateTable('upload_tickets')
      .set({ state: 'abandoned', problem: problem === undefined ? null : JSON.stringify(problem.toBody()) })
      .where('id', '=', ticketId)
      .where('state', 'in', ['open', 'arrived'])
      .execute();
  }

  /** All bytes lie in the bucket: somebody will check them, whatever becomes of this process. */
  async arrive(ticketId: string): Promise<void> {
    await this.#database.kysely
      .updateTable('upload_tickets')
      .set({ state: 'arrived', claimed_by: null, claimed_until: null, attempts: 0, problem: null })
      .where('id', '=', ticketId)
      .where('state', '=', 'open')
      .execute();
  }

  /** Takes an arrived ticket; undefined where somebody else has it, or it is settled. */
  async claim(ticketId: string, ownerId: string, leaseMs: number): Promise<ClaimedTicket | undefined> {
    const attempts = await this.take(ticketId, ownerId, leaseMs);
    if (attempts === undefined) return undefined;
    const row = await this.#database.kysely
      .selectFrom('upload_tickets')
      .selectAll()
      .where('id', '=', ticketId)
      .executeTakeFirst();
    if (row === undefined) return undefined;
    return {
      id: row.id,
      deviceId: row.device_id,
      header: (row.header as unknown as StoredHeader).update,
      layout: { sizeBytes: row.size_bytes, partSizeBytes: row.part_size_bytes, partCount: row.part_count },
      state: 'arrived',
      problem: undefined,
      verdict: undefined,
      expiresInMs: this.#lifetimeMs,
      attempts,
    };
  }

  /** What came does not count; its sender may send it again. */
  async reopen(ticketId: string, ownerId: string, problem: OctomilError): Promise<void> {
    const stored = JSON.stringify(problem.toBody());
    await this.#database.kysely
      .updateTable('upload_tickets')
      .set({ state: 'open', claimed_by: null, claimed_until: null, problem: stored, expires_at: this.#expiry() })
      .where('id', '=', ticketId)
      .where('state', '=', 'arrived')
      .where('claimed_by', '=', ownerId)
      .execute();
  }

  /** What became of a ticket. `problem` says why where that is no verdict. */
  async outcome(ticketId: string): Promise<{
    readonly state: 'open' | 'arrived' | 'completed' | 'abandoned';
    readonly verdict: Verdict | undefined;
    readonly problem: OctomilError;
  }> {
    const row = await this.#database.kysely
      .selectFrom('upload_tickets')
      .select(['state', 'header', 'problem'])
      .where('id', '=', ticketId)
      .executeTakeFirst();
    const over = new OctomilError('ticket_expired', `upload ticket ${ticketId} is over; ask again on the session`);
    if (row === undefined) return { state: 'abandoned', verdict: undefined, problem: over };
    const { verdict } = row.header as unknown as StoredHeader;
    return {
      state: row.state,
      verdict: row.state === 'completed' ? verdict : undefined,
      problem: problemOf(row.problem) ?? over,
    };
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
      .where('state', 'in', ['open', 'arrived'])
      .execute();
    return new Set(rows.map(({ id }) => id));
  }
}

export function problemOf(stored: unknown): OctomilError | undefined {
  return stored === null || stored === undefined ? undefined : OctomilError.fromBody(stored as ErrorBody);
}
