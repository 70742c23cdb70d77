import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, type Selectable, sql, type UpdateObject } from 'kysely';
import type { Database } from '../database/database.js';
import type { ConversionsTable, Tables } from '../database/tables.js';
import type { Artifact } from '../models/version-store.js';

export type Conversion = Selectable<ConversionsTable>;

/** One conversion that this process holds. */
export interface ClaimedConversion {
  readonly versionId: string;
  readonly format: string;
  /** How often it was begun since it was asked for, without those that a passing failure ended. */
  readonly attempt: number;
  readonly passingFailures: number;
}

/** The rows of conversions. Every transition names the state, and where it is running the owner, that it expects. */
export class ConversionStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  list(versionIds: readonly string[]): Promise<Conversion[]> {
    if (versionIds.length === 0) return Promise.resolve([]);
    return this.#database.kysely
      .selectFrom('conversions')
      .selectAll()
      .where('version_id', 'in', versionIds)
      .orderBy('created_at')
      .orderBy('format')
      .execute();
  }

  artifacts(versionId: string, within: Kysely<Tables> = this.#database.kysely): Promise<Artifact[]> {
    return within.selectFrom('artifacts').selectAll().where('version_id', '=', versionId).execute();
  }

  /**
   * New rows, and those that failed or wait to be tried again from the beginning. A draft becomes `converting`; a published version stays what it is.
   *
   * @throws OctomilError `wrong_state` for a deprecated version, `version_not_found`
   */
  async add(versionId: string, formats: readonly string[], transaction: Kysely<Tables>): Promise<void> {
    const version = await lockVersion(transaction, versionId);
    if (version === undefined) throw new OctomilError('version_not_found', `there is no version ${versionId}`);
    if (version.status === 'deprecated') {
      throw new OctomilError('wrong_state', 'the version is deprecated; convert a newer one', {
        details: { status: version.status },
      });
    }
    if (formats.length === 0) return;
    await sql`
      insert into conversions (version_id, format, state)
      select ${versionId}, format, 'pending' from unnest(${[...formats]}::text[]) as list(format)
      on conflict (version_id, format) do update
        set state = 'pending', attempt = 0, passing_failures = 0, not_before = null, reason_code = null, reason = null,
          updated_at = now()
        where conversions.state = 'failed' or (conversions.state = 'pending' and conversions.not_before is not null)`.execute(
      transaction,
    );
    await settle(transaction, versionId);
  }

  /** The oldest that waits, and is due, or whose owner is gone, or undefined when there is none. */
  async claim(owner: string, leaseMs: number): Promise<ClaimedConversion | undefined> {
    const { rows } = await sql<ClaimedConversion>`
      update conversions set state = 'running', owner = ${owner}, attempt = attempt + 1, updated_at = now(),
        owner_until = now() + make_interval(secs => ${leaseMs / 1000}::float8)
      where (version_id, format) = (
        select version_id, format from conversions
        where (state = 'pending' and (not_before is null or not_before <= now())) or (state = 'running' and owner_until < now())
        order by created_at limit 1 for update skip locked)
      returning version_id as "versionId", format, attempt, passing_failures as "passingFailures"`.execute(
      this.#database.kysely,
    );
    return rows[0];
  }

  /** @returns false when it is no longer this owner's */
  async renew({ versionId, format }: ClaimedConversion, owner: string, leaseMs: number): Promise<boolean> {
    const { rows } = await sql`
      update conversions set owner_until = now() + make_interval(secs => ${leaseMs / 1000}::float8)
      where version_id = ${versionId} and format = ${format} and state = 'running' and owner = ${owner}
      returning version_id`.execute(this.#database.kysely);
    return rows.length === 1;
  }

  /** Back in the line, for another process or this one's next start. */
  async release(owner: string): Promise<void> {
    await sql`
      update conversions set state = 'pending', attempt = greatest(attempt - 1, 0), owner = null, owner_until = null,
        updated_at = now()
      where state = 'running' and owner = ${owner}`.execute(this.#database.kysely);
  }

  /**
   * `running → ready` with its artifact, and with the last one the version becomes a draft.
   *
   * @param keep puts the file where the row will name it; called within the transaction, perhaps again
   * @returns false when it is no longer this owner's: nothing was stored
   */
  finish(
    { versionId, format }: ClaimedConversion,
    owner: string,
    artifact: Omit<Artifact, 'version_id' | 'created_at'>,
    keep: (transaction: Kysely<Tables>) => Promise<void>,
  ): Promise<boolean> {
    return this.#database.transact(async (transaction) => {
      await lockVersion(transaction, versionId);
      const moved = await transaction
        .updateTable('conversions')
        .set({
          state: 'ready',
          reason_code: null,
          reason: null,
          owner: null,
          owner_until: null,
          updated_at: sql<Date>`now()`,
        })
        .where('version_id', '=', versionId)
        .where('format', '=', format)
        .where('state', '=', 'running')
        .where('owner', '=', owner)
        .returning('format')
        .executeTakeFirst();
      if (moved === undefined) return false;
      // Somebody may have uploaded the format meanwhile: what is there never changes.
      const [there] = (await this.artifacts(versionId, transaction)).filter((known) => known.format === format);
      if (there === undefined) {
        await keep(transaction);
        await transaction
          .insertInto('artifacts')
          .values({ ...artifact, version_id: versionId })
          .execute();
      }
      await settle(transaction, versionId);
      return true;
    });
  }

  /** `running → failed`. The version stays `converting` until it is tried again or dropped. */
  async fail(claimed: ClaimedConversion, owner: string, error: OctomilError): Promise<void> {
    await this.#end(claimed, owner, error, { state: 'failed' });
  }

  /** `running → pending`, with the reason to be read meanwhile: what failed is likely to pass. */
  async postpone(claimed: ClaimedConversion, owner: string, error: OctomilError, delayMs: number): Promise<void> {
    await this.#end(claimed, owner, error, {
      state: 'pending',
      attempt: sql<number>`greatest(attempt - 1, 0)`,
      passing_failures: sql<number>`passing_failures + 1`,
      not_before: sql<Date>`now() + make_interval(secs => ${delayMs / 1000}::float8)`,
    });
  }

  async #end(
    { versionId, format }: ClaimedConversion,
    owner: string,
    { code, reason }: OctomilError,
    change: UpdateObject<Tables, 'conversions'>,
  ): Promise<void> {
    await this.#database.kysely
      .updateTable('conversions')
      .set({
        ...change,
        reason_code: code,
        reason: reason.slice(0, 2_000).replaceAll('\0', ''),
        owner: null,
        owner_until: null,
        updated_at: sql<Date>`now()`,
      })
      .where('version_id', '=', versionId)
      .where('format', '=', format)
      .where('state', '=', 'running')
      .where('owner', '=', owner)
      .execute();
  }

  /** @throws OctomilError `not_found` when nobody asked for it, `wrong_state` unless it waits or failed */
  drop(versionId: string, format: string): Promise<void> {
    return this.#database.transact(async (transaction) => {
      await lockVersion(transaction, versionId);
      const row = await transaction
        .selectFrom('conversions')
        .select('state')
        .where('version_id', '=', versionId)
        .where('format', '=', format)
        .forUpdate()
        .executeTakeFirst();
      if (row === undefined) throw new OctomilError('not_found', `no conversion to ${format} was asked for`);
      if (row.state !== 'failed' && row.state !== 'pending') {
        throw new OctomilError(
          'wrong_state',
          `the conversion to ${format} is ${row.state}; only one that waits or failed can be dropped`,
          { details: { state: row.state } },
        );
      }
      await transaction
        .deleteFrom('conversions')
        .where('version_id', '=', versionId)
        .where('format', '=', format)
        .execute();
      await settle(transaction, versionId);
    });
  }
}

/** Two that end at once would each see the other as unfinished; the lock lets the second see the first. */
function lockVersion(transaction: Kysely<Tables>, versionId: string) {
  return transaction.selectFrom('versions').select('status').where('id', '=', versionId).forUpdate().executeTakeFirst();
}

/** A draft with unfinished conversions is `converting`, and one whose conversions are all there is a draft again. */
async function settle(transaction: Kysely<Tables>, versionId: string): Promise<void> {
  // A format that somebody uploaded need not be made any more.
  await sql`
    update conversions set state = 'ready', owner = null, owner_until = null, reason_code = null, reason = null,
      updated_at = now()
    where version_id = ${versionId} and state <> 'ready' and exists (select 1 from artifacts
      where artifacts.version_id = conversions.version_id and artifacts.format = conversions.format)`.execute(
    transaction,
  );
  await sql`
    update versions set status = case when status = 'draft' then 'converting' else 'draft' end
    where id = ${versionId} and status in ('draft', 'converting')
      and (status = 'draft') = exists (select 1 from conversions where version_id = ${versionId} and state <> 'ready')`.execute(
    transaction,
  );
}
