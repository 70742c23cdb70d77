import { OctomilError } from '@octomil/shared/errors';
import { type ModelDocument, planModel } from '@octomil/shared/models';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';
import type { NewEvent } from './event-feed.js';
import type { ClientFormats, TrainingRegistry } from './ports.js';
import type { BaseCheckpoint, RoundFacts } from './round-facts.js';
import type { Evaluation } from './round-metrics.js';
import type { NewCheckpoint, NextRound, RoundStore } from './round-store.js';

export interface VersionDependencies {
  readonly database: Database;
  readonly rounds: RoundStore;
  readonly registry: TrainingRegistry;
  /** For versions of open admission. */
  readonly clientFormats: ClientFormats | undefined;
}

/** Devices that a version's lineage names, those of most rounds first; the others are counted. */
export const MAX_NAMED_PARTICIPANTS = 1_000;

interface RoundResult {
  readonly metrics: JsonObject;
  readonly checkpoint?: NewCheckpoint;
  readonly next?: NextRound;
}

/** Completes rounds that a version is made of, in one transaction with it. */
export class VersionCompleter {
  readonly #on: VersionDependencies;

  constructor(dependencies: VersionDependencies) {
    this.#on = dependencies;
  }

  /** Clients can only start from versions, so each round of theirs makes one; it is published with the last. */
  async completeOpen(
    facts: RoundFacts,
    owner: string,
    result: RoundResult,
    events: readonly NewEvent[],
    base: BaseCheckpoint | undefined,
  ): Promise<boolean> {
    return this.#on.database.transact(async (transaction) => {
      if (!(await this.#on.rounds.complete(facts, owner, result, events, transaction))) return false;
      if (base === undefined) return true;
      const { versionId } = await this.#on.registry.createVersionFromCheckpoint(
        {
          modelId: facts.model.id,
          requestedVersion: null,
          baseVersionId: facts.baseVersionId,
          checkpoint: base,
          document: documentOf(facts),
          lineage: { session_id: facts.sessionId, round_number: facts.number, ...result.checkpoint?.lineage },
          metrics: {},
          publish: false,
          // One version for each round.
          sessionId: facts.id,
        },
        transaction,
      );
      await this.#on.clientFormats?.(versionId, transaction);
      return true;
    });
  }

  /** The last round, the version and the end of the session are one transaction. */
  async completeSession(
    facts: RoundFacts,
    owner: string,
    result: RoundResult,
    events: readonly NewEvent[],
    base: BaseCheckpoint | undefined,
  ): Promise<boolean> {
    const { database } = this.#on;
    const lineage = facts.config.dryRun ? {} : await this.#lineage(facts);
    const attempt = (requestedVersion: string | null): Promise<boolean> =>
      database.transact(async (transaction) => {
        if (!(await this.#on.rounds.complete(facts, owner, result, events, transaction))) return false;
        const version =
          facts.config.dryRun || base === undefined
            ? undefined
            : await this.#on.registry.createVersionFromCheckpoint(
                {
                  modelId: facts.model.id,
                  requestedVersion,
                  baseVersionId: facts.baseVersionId,
                  checkpoint: base,
                  document: documentOf(facts),
                  lineage: {
                    ...lineage,
                    ...(result.checkpoint === undefined ? {} : { final: result.checkpoint.lineage }),
                    sha256: base.sha256,
                  },
                  metrics: versionMetrics(facts, result.metrics),
                  publish: facts.config.publish,
                  sessionId: facts.sessionId,
                },
                transaction,
              );
        if (version !== undefined && facts.config.admission === 'open') {
          await this.#on.clientFormats?.(version.versionId, transaction);
        }
        const taken =
          version !== undefined && facts.config.newVersion !== null && version.version !== facts.config.newVersion;
        const reason = taken
          ? `version ${facts.config.newVersion} was created by somebody else meanwhile; the result is ${version.version}`
          : null;
        const state = { session_id: facts.sessionId, state: 'completed', reason };
        const closing: NewEvent[] = [
          ...(version === undefined
            ? []
            : [
                {
                  type: 'version' as const,
                  data: {
                    session_id: facts.sessionId,
                    version_id: version.versionId,
                    version: version.version,
                    sequence: version.sequence,
                    published: facts.config.publish,
                    sha256: base?.sha256 ?? null,
                  },
                },
              ]),
          { type: 'session', data: state },
          { type: 'end', data: state },
        ];
        await sql`update training_sessions set state = 'completed', result_version_id = ${version?.versionId ?? null},
          reason_code = ${taken ? 'version_taken' : null}, reason = ${reason}, updated_at = now(), finished_at = now()
          where id = ${facts.sessionId}`.execute(transaction);
        // The row is locked by this transaction, as the order of events demands.
        for (const { type, data } of closing) {
          await transaction
            .insertInto('session_events')
            .values({ session_id: facts.sessionId, type, data: JSON.stringify(data) })
            .execute();
        }
        return true;
      });
    try {
      return await attempt(facts.config.newVersion);
    } catch (error) {
      const conflict = error instanceof OctomilError ? error.code === 'conflict' : violatedUnique(error) !== undefined;
      if (facts.config.newVersion === null || !conflict) throw error;
      return attempt(null);
    }
  }

  /** Which updates each round was made of stays in the rows of its checkpoint and updates: here it would have no bound. */
  async #lineage(facts: RoundFacts): Promise<JsonObject> {
    const { kysely } = this.#on.database;
    const { rows: rounds } = await sql<JsonObject>`
      select r.number, r.attempt, r.id as round_id, c.sha256, c.lineage ->> 'backend' as backend,
        coalesce(jsonb_array_length(c.lineage -> 'participants'), 0) as participants
      from checkpoints c join rounds r on r.id = c.round_id
      where r.session_id = ${facts.sessionId} order by r.number`.execute(kysely);
    // The round at hand is completed together with the version.
    const { rows: participants } = await sql<{ device_id: string; device: string; rounds: number; all: number }>`
      select d.id as device_id, d.device_identifier as device, took_part.rounds, (count(*) over ())::integer as all
      from (select u.device_id, count(*)::integer as rounds from updates u join rounds r on r.id = u.round_id
          where r.session_id = ${facts.sessionId} and r.kind = 'train' and u.state = 'accepted'
            and (r.state = 'completed' or r.id = ${facts.id})
          group by u.device_id) took_part
        join devices d on d.id = took_part.device_id
      order by took_part.rounds desc, d.device_identifier, d.id limit ${MAX_NAMED_PARTICIPANTS}::integer`.execute(
      kysely,
    );
    const { config } = facts;
    return {
      session_id: facts.sessionId,
      base_version_id: facts.baseVersionId,
      federation_id: facts.federation.id,
      strategy: config.strategy,
      strategy_options: config.strategyOptions,
      local: config.local,
      update_format: config.updateFormat,
      seed: config.seed,
      feature_spec_hash: facts.featureSpec?.hash ?? null,
      rounds,
      // By device, with the number of rounds that count an update of it.
      participants: participants.map(({ device_id, device, rounds: count }) => ({ device_id, device, rounds: count })),
      participant_count: participants[0]?.all ?? 0,
    };
  }
}

/** Figures of the version itself: those of the evaluate round. */
function versionMetrics(facts: RoundFacts, metrics: JsonObject): JsonObject {
  const evaluation = facts.kind === 'evaluate' ? (metrics['evaluation'] as Evaluation | undefined) : undefined;
  return evaluation === undefined ? {} : { ...evaluation.overall, ...evaluation };
}

/** @throws `internal` when the session has no architecture */
function documentOf({ config, featureSpec }: RoundFacts): ModelDocument {
  const { architecture, inputWidth } = config;
  if (architecture === null) throw new OctomilError('internal', 'the session has no architecture');
  return {
    format: 'octomil-model',
    formatVersion: 1,
    architecture,
    inputWidth,
    ...(featureSpec === undefined ? {} : { featureSpec }),
    weightOrder:
      config.weightOrder ?? [...planModel(architecture, inputWidth).weights.values()].flat().map(({ name }) => name),
  };
}
