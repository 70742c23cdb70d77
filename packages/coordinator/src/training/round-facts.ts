import { type FeatureSpec, parseFeatureSpec } from '@octomil/shared/features';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { RoundKind } from '../database/tables.js';
import type { StoredFile } from './ports.js';
import type { SessionConfig } from './session-config.js';

/**
 * What never changes about a round, so that it is read once per process. Who belongs to its federation does change, and is
 * asked for where it decides.
 */
export interface RoundFacts {
  readonly id: string;
  readonly sessionId: string;
  readonly organizationId: string;
  readonly federation: { readonly id: string; readonly name: string };
  readonly model: { readonly id: string; readonly name: string };
  readonly kind: RoundKind;
  readonly number: number;
  readonly attempt: number;
  readonly seed: number;
  readonly minUpdates: number;
  readonly targetDevices: number;
  readonly config: ResolvedConfig;
  readonly baseVersionId: string | null;
  readonly base: BaseCheckpoint | undefined;
  readonly featureSpec: FeatureSpec | undefined;
}

export interface BaseCheckpoint extends StoredFile {
  readonly id: string;
  readonly stateKey: string | null;
  /** Of a controlled strategy: what sites are told of the state, and N as it was counted. */
  readonly control?: {
    readonly sha256: string;
    readonly sizeBytes: number;
    readonly population: number;
    /** Absent where a coordinator before this one aggregated. */
    readonly normL2?: number;
  };
}

/** The configuration as kept: with what the session's creation found out. */
export interface ResolvedConfig extends SessionConfig {
  readonly holdoutSalt: string;
  /** Of the base version; null: by the architecture. */
  readonly weightOrder: readonly string[] | null;
  readonly describes: boolean;
  /** The confirmed proposal whose spec is used as it is. */
  readonly featureProposalId?: string;
  readonly evaluates: boolean;
  /** Open admission: the round ends when somebody asks for the aggregate, who then decides strategy and version too. */
  readonly closesOnRequest?: boolean;
  /** Of the request that closed it, so that its repetition finds this session. */
  readonly requestHash?: string;
}

/** Rounds are few and live long; the bound only keeps a coordinator of many years small. */
const MAX_CACHED = 512;

export class RoundFactsReader {
  readonly #database: Database;
  readonly #cache = new Map<string, Promise<RoundFacts | undefined>>();

  constructor(database: Database) {
    this.#database = database;
  }

  /** `undefined` when there is no such round. */
  async of(roundId: string): Promise<RoundFacts | undefined> {
    const known = this.#cache.get(roundId);
    if (known !== undefined) return known;
    const reading = this.#read(roundId);
    this.remember(roundId, reading);
    try {
      const facts = await reading;
      // What closes such a round also completes its configuration.
      if (facts === undefined || facts.config.closesOnRequest === true) this.#cache.delete(roundId);
      return facts;
    } catch (error) {
      this.#cache.delete(roundId);
      throw error;
    }
  }

  /** As `of`, but not from a reading that began before: for a configuration that was just completed. */
  async fresh(roundId: string): Promise<RoundFacts | undefined> {
    this.#cache.delete(roundId);
    return this.of(roundId);
  }

  /** Keeps facts that are known without reading, such as those of the round just created. */
  remember(roundId: string, facts: Promise<RoundFacts | undefined>): void {
    this.#cache.set(roundId, facts);
    if (this.#cache.size > MAX_CACHED) {
      const [oldest] = this.#cache.keys();
      if (oldest !== undefined) this.#cache.delete(oldest);
    }
  }

  async #read(roundId: string): Promise<RoundFacts | undefined> {
    const { rows } = await sql<FactsRow>`
      select r.id, r.session_id, r.kind, r.number, r.attempt, r.seed, r.min_updates, r.target_devices,
        s.organization_id, s.federation_id, f.name as federation_name, s.model_id, m.name as model_name,
        s.config, s.base_version_id, s.feature_spec_hash, p.document as feature_spec,
        c.id as checkpoint_id, c.object_key, c.sha256, c.size_bytes, c.strategy_state_key, c.lineage -> 'control' as control
      from rounds r
      join training_sessions s on s.id = r.session_id
      join federations f on f.id = s.federation_id
      join models m on m.id = s.model_id
      left join checkpoints c on c.id = r.base_checkpoint_id
      left join feature_specs p on p.hash = s.feature_spec_hash
      where r.id = ${roundId}`.execute(this.#database.kysely);
    const row = rows[0];
    if (row === undefined) return undefined;
    return {
      id: row.id,
      sessionId: row.session_id,
      organizationId: row.organization_id,
      federation: { id: row.federation_id, name: row.federation_name },
      model: { id: row.model_id, name: row.model_name },
      kind: row.kind,
      number: row.number,
      attempt: row.attempt,
      seed: row.seed,
      minUpdates: row.min_updates,
      targetDevices: row.target_devices,
      config: row.config,
      baseVersionId: row.base_version_id,
      base:
        row.checkpoint_id === null
          ? undefined
          : {
              id: row.checkpoint_id,
              objectKey: row.object_key,
              sha256: row.sha256,
              sizeBytes: row.size_bytes,
              stateKey: row.strategy_state_key,
              ...(row.control === null ? {} : { control: row.control }),
            },
      featureSpec: row.feature_spec === null ? undefined : parseFeatureSpec(JSON.parse(row.feature_spec)),
    };
  }
}

interface FactsRow {
  id: string;
  session_id: string;
  kind: RoundKind;
  number: number;
  attempt: number;
  seed: number;
  min_updates: number;
  target_devices: number;
  organization_id: string;
  federation_id: string;
  federation_name: string;
  model_id: string;
  model_name: string;
  config: ResolvedConfig;
  base_version_id: string | null;
  feature_spec_hash: string | null;
  feature_spec: string | null;
  checkpoint_id: string | null;
  object_key: string;
  sha256: string;
  size_bytes: number;
  strategy_state_key: string | null;
  control: NonNullable<BaseCheckpoint['control']> | null;
}
