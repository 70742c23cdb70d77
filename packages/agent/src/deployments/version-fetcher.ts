import { OctomilError } from '@octomil/shared/errors';
import type { BaseStore } from '../models/base-store.js';
import type { DeployedFolder } from './deployed-folder.js';
import type { DesiredVersion } from './desired-version.js';
import type { Waits } from './waits.js';

export interface VersionFetcherOptions {
  readonly store: Pick<BaseStore, 'hold' | 'missingBytes'>;
  readonly folder: DeployedFolder;
  readonly waits: Pick<Waits, 'whileAllowed'>;
  /** On the disk of the state folder; undefined where it cannot be known. */
  readonly freeDiskBytes: () => Promise<number | undefined>;
}

/** Beyond the files themselves: pointer, audit log, journal. */
const SPARE_BYTES = 1_048_576;

/** Fetches a version's files through the agent's one cache and lays them out. */
export class VersionFetcher {
  readonly #options: VersionFetcherOptions;

  constructor(options: VersionFetcherOptions) {
    this.#options = options;
  }

  /**
   * @param onWait why it waits; undefined when it goes on
   * @throws OctomilError `insufficient_storage`, `checksum_mismatch`, `download_failed`, what the coordinator answers; the
   * signal's reason: what has arrived by then is kept
   */
  async fetch(
    version: DesiredVersion,
    signal: AbortSignal,
    onWait: (problem: OctomilError | undefined) => void,
  ): Promise<void> {
    const { folder, waits, store } = this.#options;
    await waits.whileAllowed('downloads', signal, onWait, async (allowed) => {
      await this.#requireRoom(version);
      await folder.begin(version);
      for (const artifact of version.artifacts) {
        const held = await store.hold(artifact, allowed);
        try {
          await folder.add(version, artifact, held.path);
        } finally {
          held.release();
        }
      }
      await folder.finish(version);
    });
  }

  /** Before a byte comes: a full disk is bad for everything else on the machine. */
  async #requireRoom(version: DesiredVersion): Promise<void> {
    const { store, freeDiskBytes } = this.#options;
    let missing = 0;
    for (const artifact of version.artifacts) missing += await store.missingBytes(artifact);
    const free = await freeDiskBytes();
    if (missing === 0 || free === undefined || free >= missing + SPARE_BYTES) return;
    throw new OctomilError(
      'insufficient_storage',
      `version ${version.version} needs ${missing} bytes more and the disk of the state folder has ${free} free; make room`,
      { details: { neededBytes: missing + SPARE_BYTES, freeBytes: free } },
    );
  }
}
