import type { Clock } from '@octomil/shared/runtime';
import type { Database } from '../database/database.js';
import type { RolloutState } from '../database/tables.js';
import { matchesSelector, parseSelector } from '../devices/device-selector.js';
import { DOCUMENT_FORMAT, WEIGHTS_FORMAT } from '../models/registry.js';
import {
  type DesiredArtifact,
  type DesiredDeviceModel,
  type DesiredModels,
  type DeviceFacts,
  decide,
  desiredModels,
} from './desired.js';
import { shareRanges } from './share.js';

/** A rollout that decides about devices, ready to be asked about ten thousand of them. */
export interface InForceRollout {
  readonly id: number;
  readonly modelId: string;
  readonly desired: DesiredDeviceModel;
  holds(device: DeviceFacts): boolean;
}

export interface StoredObject {
  readonly objectKey: string;
  readonly sizeBytes: number;
}

/** What is in force in one organization at one moment. */
export interface InForce {
  /** Equal where the rows are. */
  readonly fingerprint: string;
  /** Newest first. */
  readonly rollouts: readonly InForceRollout[];
  /** Rollouts whose devices' reports matter now: active, rolling back, or completed a moment ago. */
  readonly watched: readonly { readonly id: number; readonly modelId: string }[];
  /** Files of the versions in force, by digest. */
  readonly objects: ReadonlyMap<string, StoredObject>;
  desiredBy(device: DeviceFacts): DesiredModels;
}

interface Entry {
  inForce: InForce | undefined;
  readAtMs: number;
  stale: boolean;
  reading?: Promise<InForce>;
}

/** Notifications say at once what changed; this bounds what a lost one costs. */
export const REREAD_MS = 5_000;

/**
 * The rollouts in force of each organization, in memory: ten thousand devices are decided about without a statement.
 * What was invalidated is read again before it is answered, and an older reading never replaces a newer one.
 */
export class RolloutsInForce {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #cached = new Map<string, Entry>();

  constructor(database: Database, clock: Clock) {
    this.#database = database;
    this.#clock = clock;
  }

  /** At most five seconds old, and never older than the last `invalidate`. The same object while nothing changes. */
  async of(organizationId: string): Promise<InForce> {
    const entry = this.#entry(organizationId);
    const { inForce, readAtMs, reading, stale } = entry;
    // While it is read again, perhaps because it was invalidated, everybody waits for that.
    const fresh = reading === undefined && !stale && this.#clock.now() - readAtMs < REREAD_MS;
    if (inForce !== undefined && fresh) return inForce;
    entry.reading ??= this.#readUntilFresh(organizationId, entry);
    return entry.reading;
  }

  /** The last reading, however old. */
  peek(organizationId: string): InForce | undefined {
    return this.#cached.get(organizationId)?.inForce;
  }

  invalidate(organizationId: string): void {
    const entry = this.#cached.get(organizationId);
    if (entry !== undefined) entry.stale = true;
  }

  /** Keeps only these, so that organizations without devices here cost no memory for ever. */
  retain(organizationIds: ReadonlySet<string>): void {
    const oldMs = this.#clock.now() - 10 * REREAD_MS;
    for (const [id, { readAtMs, reading }] of this.#cached) {
      if (!organizationIds.has(id) && reading === undefined && readAtMs < oldMs) this.#cached.delete(id);
    }
  }

  #entry(organizationId: string): Entry {
    let entry = this.#cached.get(organizationId);
    if (entry === undefined) {
      entry = { inForce: undefined, readAtMs: 0, stale: true };
      this.#cached.set(organizationId, entry);
    }
    return entry;
  }

  async #readUntilFresh(organizationId: string, entry: Entry): Promise<InForce> {
    try {
      for (;;) {
        entry.stale = false;
        const readAtMs = this.#clock.now();
        const rows = await this.#read(organizationId);
        const inForce = entry.inForce?.fingerprint === rows.fingerprint ? entry.inForce : inForceOf(rows);
        entry.inForce = inForce;
        entry.readAtMs = readAtMs;
        if (!entry.stale) return inForce;
      }
    } catch (error) {
      entry.stale = true;
      throw error;
    } finally {
      // In the same turn as the last look at `stale`: who invalidates after it gets a new reading.
      delete entry.reading;
    }
  }

  async #read(organizationId: string): Promise<Rows> {
    const rollouts = await this.#database.kysely
      .selectFrom('rollouts')
      .innerJoin('models', 'models.id', 'rollouts.model_id')
      .innerJoin('versions', 'versions.id', 'rollouts.version_id')
      .select([
        'rollouts.id',
        'rollouts.model_id',
        'models.name as model_name',
        'rollouts.version_id',
        'versions.version',
        'rollouts.state',
        'rollouts.share_ratio',
        'rollouts.placement_offset',
        'rollouts.selector',
      ])
      .where('rollouts.organization_id', '=', organizationId)
      .where('rollouts.state', 'in', ['active', 'paused', 'completed', 'rolling_back'])
      .where('rollouts.covered', '=', false)
      .orderBy('rollouts.id', 'desc')
      .execute();
    const versionIds = [...new Set(rollouts.map((row) => row.version_id))];
    const artifacts =
      versionIds.length === 0
        ? []
        : await this.#database.kysely
            .selectFrom('artifacts')
            .select(['version_id', 'format', 'file_name', 'sha256', 'size_bytes', 'object_key'])
            .where('version_id', 'in', versionIds)
            .orderBy('version_id')
            .orderBy('format')
            .execute();
    return { rollouts, artifacts, fingerprint: JSON.stringify([rollouts, artifacts]) };
  }
}

interface Rows {
  readonly rollouts: readonly RolloutRow[];
  readonly artifacts: readonly ArtifactRow[];
  readonly fingerprint: string;
}

interface RolloutRow {
  readonly id: number;
  readonly model_id: string;
  readonly model_name: string;
  readonly version_id: string;
  readonly version: string;
  readonly state: RolloutState;
  readonly share_ratio: number;
  readonly placement_offset: number;
  readonly selector: unknown;
}

interface ArtifactRow {
  readonly version_id: string;
  readonly format: string;
  readonly file_name: string;
  readonly sha256: string;
  readonly size_bytes: number;
  readonly object_key: string;
}

function inForceOf({ rollouts: rows, artifacts, fingerprint }: Rows): InForce {
  const byVersion = Map.groupBy(artifacts, (artifact) => artifact.version_id);
  const rollouts = rows.filter(({ state }) => state !== 'rolling_back').map((row) => inForceRollout(row, byVersion));
  const known = new Map<string, DesiredModels>();
  return {
    fingerprint,
    rollouts,
    watched: rows.filter(({ state }) => state !== 'paused').map((row) => ({ id: row.id, modelId: row.model_id })),
    objects: new Map(
      artifacts.map((file) => [file.sha256, { objectKey: file.object_key, sizeBytes: file.size_bytes }]),
    ),
    desiredBy(device) {
      const chosen = decide(rollouts, device);
      const key = chosen.map(({ id }) => id).join(' ');
      let desired = known.get(key);
      if (desired === undefined) {
        desired = desiredModels(chosen);
        known.set(key, desired);
      }
      return desired;
    },
  };
}

function inForceRollout(row: RolloutRow, artifacts: ReadonlyMap<string, ArtifactRow[]>): InForceRollout {
  const ranges = shareRanges(row.placement_offset, row.share_ratio);
  const selector = parseSelector(row.selector);
  return {
    id: row.id,
    modelId: row.model_id,
    desired: {
      modelId: row.model_id,
      modelName: row.model_name,
      versionId: row.version_id,
      version: row.version,
      rolloutId: row.id,
      artifacts: wantedArtifacts(artifacts.get(row.version_id) ?? []),
      activation: 'immediate',
    },
    holds: (device) =>
      ranges.some(({ from, to }) => device.placement >= from && device.placement < to) &&
      matchesSelector(device, selector),
  };
}

/** Weights and document where the version has both: what agents run without help. Otherwise everything there is. */
function wantedArtifacts(files: readonly ArtifactRow[]): DesiredArtifact[] {
  const native = files.filter(({ format }) => format === WEIGHTS_FORMAT || format === DOCUMENT_FORMAT);
  return (native.length === 2 ? native : files).map(({ format, file_name, sha256, size_bytes }) => ({
    format,
    fileName: harmlessName(file_name, format),
    sha256,
    sizeBytes: size_bytes,
  }));
}

function harmlessName(name: string, format: string): string {
  const harmless = name.replace(/[^A-Za-z0-9._-]/g, '_').slice(-200);
  return /^\.*$/.test(harmless) ? `model.${format.replace(/[^A-Za-z0-9._-]/g, '_')}` : harmless;
}
