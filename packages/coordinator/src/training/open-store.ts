import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject, RoundState, SessionState, Tables } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';
import type { NewEvent } from './event-feed.js';
import type { RoundFacts } from './round-facts.js';
import { membersOf } from './session-federation.js';
import { insertEvents } from './session-store.js';

/** A device as open admission looks at it. */
export interface OpenDevice {
  readonly id: string;
  readonly name: string;
  readonly organizationId: string;
  /** `shared`: registered under an organization's key. */
  readonly identity: 'enrolled' | 'shared';
}

/** An upload that was found good, about to count. */
export interface OpenUpdate {
  readonly updateId: string;
  readonly assignmentId: string;
  readonly deviceId: string;
  readonly format: 'delta' | 'weights';
  readonly objectKey: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly sampleCount: number;
  readonly weight: number;
  readonly metrics: JsonObject;
}

/** What became of an upload. */
export type UploadOutcome =
  | {
      readonly kind: 'counted';
      readonly accepted: number;
      readonly minUpdates: number;
      /** The object of the update that made way; nothing names it any more. */
      readonly replacedKey?: string;
    }
  /** The device has an accepted update in this round already. */
  | { readonly kind: 'answered'; readonly updateId: string; readonly sha256: string }
  /** The round collects no longer. */
  | { readonly kind: 'closed' };

/** An open round as clients see it. */
export interface OpenRoundRow {
  readonly roundId: string;
  readonly sessionId: string;
  readonly number: number;
  readonly state: RoundState;
  readonly accepted: number;
  readonly minUpdates: number;
}

/** How the session of an aggregation stands. */
export interface AggregationRow {
  readonly sessionId: string;
  readonly state: SessionState;
  readonly roundId: string;
  readonly roundState: RoundState;
  readonly accepted: number;
  readonly version: string | null;
  readonly versionId: string | null;
  readonly sha256: string | null;
  readonly reasonCode: string | null;
  readonly reason: string | null;
}

/** Rows of open admission. */
export class OpenStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** By id or identifier; of one organization, and not revoked. @throws `device_not_registered` */
  async device(organizationId: string, reference: string): Promise<OpenDevice> {
    const { rows } = await sql<OpenDevice & { revoked: boolean }>`
      select id, device_identifier as name, organization_id as "organizationId", identity,
        revoked_at is not null as revoked
      from devices where organization_id = ${organizationId} and (id = ${reference} or device_identifier = ${reference})
      order by (id = ${reference}) desc limit 1`.execute(this.#database.kysely);
    const device = rows[0];
    if (device === undefined) {
      throw new OctomilError(
        'device_not_registered',
        `there is no device "${reference.slice(0, 140)}"; register it with POST /api/v1/devices/register`,
        { details: { field: 'device_id', value: reference.slice(0, 140) } },
      );
    }
    if (device.revoked) throw new OctomilError('device_revoked', `device "${device.name}" was revoked`);
    return device;
  }

  /** Whether a federation takes devices that were only registered. */
  async takesSharedIdentities(federationId: string): Promise<boolean> {
    const row = await this.#database.kysely
      .selectFrom('federations')
      .select('shared_identities')
      .where('id', '=', federationId)
      .executeTakeFirst();
    return row?.shared_identities !== false;
  }

  /** Whether an organization made a round's session, or belongs to its federation now. */
  async mayTakePart(
    round: Pick<RoundFacts, 'organizationId' | 'federation'>,
    organizationId: string,
  ): Promise<boolean> {
    if (round.organizationId === organizationId) return true;
    const { rows } = await sql<{ found: boolean }>`
      select ${organizationId} in (${membersOf(round.federation.id)}) as found`.execute(this.#database.kysely);
    return rows[0]?.found === true;
  }

  /** @returns false when the organization owns no such federation */
  async setSharedIdentities(organizationId: string, federation: string, allowed: boolean): Promise<string | undefined> {
    const { rows } = await sql<{ id: string }>`
      update federations set shared_identities = ${allowed}
      where organization_id = ${organizationId} and (id = ${federation} or name = ${federation}) returning id`.execute(
      this.#database.kysely,
    );
    return rows[0]?.id;
  }

  /** The round that collects for a model and base, if any does. */
  async collecting(openFor: string): Promise<OpenRoundRow | undefined> {
    const { rows } = await sql<OpenRoundRow>`
      select id as "roundId", session_id as "sessionId", number, state, accepted_updates as accepted,
        min_updates as "minUpdates"
      from rounds where open_for = ${openFor} and state = 'collecting'`.execute(this.#database.kysely);
    return rows[0];
  }

  /** Open rounds, of sessions that people started, that this device could still answer; oldest first. */
  async roundsFor(device: OpenDevice): Promise<string[]> {
    const { rows } = await sql<{ id: string }>`
      select r.id from rounds r join training_sessions s on s.id = r.session_id join federations f on f.id = s.federation_id
      where r.state = 'collecting' and r.open_for is not null and s.state = 'running'
        and s.config ->> 'closesOnRequest' is distinct from 'true'
        and (s.organization_id = ${device.organizationId} or exists (select 1 from federation_members m
          where m.federation_id = s.federation_id and m.organization_id = ${device.organizationId}
            and m.status = 'active'))
        and (f.shared_identities or ${device.identity} = 'enrolled')
        and not exists (select 1 from assignments a where a.round_id = r.id and a.device_id = ${device.id})
      order by r.created_at, r.id limit 100`.execute(this.#database.kysely);
    return rows.map(({ id }) => id);
  }

  /** Where a round stands, with the version that its base is. */
  async round(roundId: string): Promise<(OpenRoundRow & { readonly version: string | null }) | undefined> {
    const { rows } = await sql<OpenRoundRow & { version: string | null }>`
      select r.id as "roundId", r.session_id as "sessionId", r.number, r.state, r.accepted_updates as accepted,
        r.min_updates as "minUpdates", (select v.version from versions v
          join artifacts a on a.version_id = v.id and a.format = 'safetensors'
          where v.model_id = s.model_id and a.sha256 = c.sha256 order by v.sequence desc limit 1) as version
      from rounds r join training_sessions s on s.id = r.session_id
      left join checkpoints c on c.id = r.base_checkpoint_id
      where r.id = ${roundId}`.execute(this.#database.kysely);
    return rows[0];
  }

  /**
   * Counts an upload: assignment, update, counter and event in one transaction.
   *
   * @param mayReplace an earlier update of the same device makes way for this one
   */
  async count(
    round: { readonly sessionId: string; readonly id: string },
    update: OpenUpdate,
    event: NewEvent,
    mayReplace: boolean,
  ): Promise<UploadOutcome> {
    return this.#database.transact(async (transaction): Promise<UploadOutcome> => {
      const { rows: running } = await sql<{ id: string }>`
        select id from training_sessions where id = ${round.sessionId} and state = 'running' for no key update`.execute(
        transaction,
      );
      if (running.length === 0) return { kind: 'closed' };
      // Of its own: a statement that waited for the lock sees other rows as they were before it waited.
      const { rows: open } = await sql<{ id: string }>`
        select id from rounds where id = ${round.id} and session_id = ${round.sessionId}
          and state = 'collecting'`.execute(transaction);
      if (open.length === 0) return { kind: 'closed' };
      const answered = await acceptedUpdate(transaction, round.id, update.deviceId);
      if (answered !== undefined) {
        if (!mayReplace || answered.sha256 === update.sha256) return { kind: 'answered', ...answered };
        await sql`update updates set state = 'rejected', object_key = null, reason_code = 'replaced',
            reason = ${`replaced by update ${update.updateId} of the same device`}
          where id = ${answered.updateId}`.execute(transaction);
        await insertUpdate(transaction, round.id, { ...update, assignmentId: answered.assignmentId });
        await insertEvents(transaction, round.sessionId, [event]);
        const { accepted, minUpdates, objectKey } = answered;
        return { kind: 'counted', accepted, minUpdates, replacedKey: objectKey };
      }
      const { rows } = await sql<{ accepted: number; minUpdates: number }>`
        update rounds set accepted_updates = accepted_updates + 1
        where id = ${round.id} and state = 'collecting'
        returning accepted_updates as accepted, min_updates as "minUpdates"`.execute(transaction);
      const counted = rows[0];
      if (counted === undefined) return { kind: 'closed' };
      await sql`insert into assignments (id, round_id, device_id, attempt, state, phase, lease_until)
        values (${update.assignmentId}, ${round.id}, ${update.deviceId}, 1, 'done', 'uploaded', now())`.execute(
        transaction,
      );
      await insertUpdate(transaction, round.id, update);
      await insertEvents(transaction, round.sessionId, [
        { ...event, data: { ...event.data, accepted: counted.accepted } },
      ]);
      return { kind: 'counted', ...counted };
    });
  }

  /** Keeps that an upload did not count, for whoever looks at the round. */
  async reject(round: { readonly id: string }, update: OpenUpdate, code: string, reason: string): Promise<void> {
    await sql`insert into updates (id, round_id, device_id, assignment_id, state, format, object_key, sha256, size_bytes,
        sample_count, weight, metrics, reason_code, reason)
      select ${update.updateId}, ${round.id}, ${update.deviceId}, a.id, 'rejected', ${update.format}, null,
        ${update.sha256}, ${update.sizeBytes}::bigint, ${update.sampleCount}::bigint, 0,
        ${JSON.stringify(update.metrics)}::jsonb, ${code}, ${reason}
      from assignments a where a.round_id = ${round.id} and a.device_id = ${update.deviceId}
        and (select count(*) from updates u where u.round_id = ${round.id} and u.device_id = ${update.deviceId}) < 20`.execute(
      this.#database.kysely,
    );
  }

  /**
   * Closes a round with what it has: `collecting → aggregating` in `owner`'s name, with what the request decided.
   *
   * @returns false when it has too few updates, or collects no longer
   * @throws `conflict` when another running session makes the same version
   */
  async close(
    round: OpenRoundRow,
    owner: { readonly id: string; readonly leaseMs: number },
    decided: { readonly minUpdates: number; readonly newVersion: string | null; readonly config: JsonObject },
    events: readonly NewEvent[],
  ): Promise<boolean> {
    try {
      return await this.#database.transact(async (transaction) => {
        await sql`select id from training_sessions where id = ${round.sessionId} for no key update`.execute(
          transaction,
        );
        const { rows } = await sql<{ id: string }>`
          update rounds set state = 'aggregating', owner = ${owner.id}, min_updates = ${decided.minUpdates}::integer,
            owner_until = now() + make_interval(secs => ${owner.leaseMs / 1000})
          where id = ${round.roundId} and state = 'collecting' and accepted_updates >= ${decided.minUpdates}::integer
          returning id`.execute(transaction);
        if (rows.length === 0) return false;
        await sql`update training_sessions set config = config || ${JSON.stringify(decided.config)}::jsonb,
            new_version = ${decided.newVersion}, updated_at = now()
          where id = ${round.sessionId}`.execute(transaction);
        await insertEvents(transaction, round.sessionId, events);
        return true;
      });
    } catch (error) {
      if (violatedUnique(error) === undefined) throw error;
      throw new OctomilError(
        'conflict',
        `another training session that is not over makes version ${decided.newVersion} of this model; choose another new_version`,
        { cause: error },
      );
    }
  }

  /** The session that the same request closed lately, if it has not failed. */
  async closedBy(modelId: string, requestHash: string, withinSeconds: number): Promise<string | undefined> {
    const { rows } = await sql<{ id: string }>`
      select id from training_sessions where model_id = ${modelId} and admission = 'open'
        and config ->> 'requestHash' = ${requestHash} and state in ('running', 'completed')
        and updated_at > now() - make_interval(secs => ${withinSeconds}::float8)
      order by updated_at desc limit 1`.execute(this.#database.kysely);
    return rows[0]?.id;
  }

  async aggregation(sessionId: string): Promise<AggregationRow | undefined> {
    const { rows } = await sql<AggregationRow>`
      select s.id as "sessionId", s.state, r.id as "roundId", r.state as "roundState", r.accepted_updates as accepted,
        v.version, v.id as "versionId", c.sha256, s.reason_code as "reasonCode", s.reason
      from training_sessions s join rounds r on r.session_id = s.id
      left join checkpoints c on c.id = r.checkpoint_id
      left join versions v on v.id = s.result_version_id
      where s.id = ${sessionId} order by r.number desc, r.attempt desc limit 1`.execute(this.#database.kysely);
    return rows[0];
  }

  async versionExists(modelId: string, version: string): Promise<boolean> {
    const row = await this.#database.kysely
      .selectFrom('versions')
      .select('id')
      .where('model_id', '=', modelId)
      .where('version', '=', version)
      .executeTakeFirst();
    return row !== undefined;
  }
}

async function acceptedUpdate(
  handle: Kysely<Tables>,
  roundId: string,
  deviceId: string,
): Promise<AnsweredRow | undefined> {
  const { rows } = await sql<AnsweredRow>`
    select u.id as "updateId", u.sha256, u.assignment_id as "assignmentId", u.object_key as "objectKey",
      r.accepted_updates as accepted,
      r.min_updates as "minUpdates"
    from updates u join rounds r on r.id = u.round_id
    where u.round_id = ${roundId} and u.device_id = ${deviceId} and u.state = 'accepted'`.execute(handle);
  return rows[0];
}

interface AnsweredRow {
  updateId: string;
  sha256: string;
  assignmentId: string;
  objectKey: string;
  accepted: number;
  minUpdates: number;
}

async function insertUpdate(handle: Kysely<Tables>, roundId: string, update: OpenUpdate): Promise<void> {
  await sql`insert into updates (id, round_id, device_id, assignment_id, state, format, object_key, sha256, size_bytes,
      sample_count, weight, metrics)
    values (${update.updateId}, ${roundId}, ${update.deviceId}, ${update.assignmentId}, 'accepted', ${update.format},
      ${update.objectKey}, ${update.sha256}, ${update.sizeBytes}::bigint, ${update.sampleCount}::bigint,
      ${update.weight}, ${JSON.stringify(update.metrics)}::jsonb)`.execute(handle);
}
