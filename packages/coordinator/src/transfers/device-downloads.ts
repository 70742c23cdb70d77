import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { DownloadPort } from '../rollouts/index.js';
import type { AssignmentPort } from '../training/assignment-port.js';
import { tellingWhyBroken } from './broken-download.js';
import type { DirectAddress, DirectDownloads } from './direct-downloads.js';
import { type BufferPool, pumpFile, pumpObject } from './file-pump.js';
import { pumpBytes, SMALL_FILE_BYTES, SmallFiles } from './small-files.js';

export interface Download {
  readonly sizeBytes: number;
  /** Sends a range of the object. `send` resolves when the chunk's memory may be used again. */
  pump(
    range: { start: number; end: number },
    pool: BufferPool,
    send: (chunk: Buffer, offset: number) => Promise<void>,
  ): Promise<void>;
  /** Call once, also after a failure. */
  release(): Promise<void>;
}

export interface DeviceDownloadsOptions {
  readonly objects: ObjectStore;
  /** Default: downloads come from here. */
  readonly direct: DirectDownloads | undefined;
  readonly assignments: AssignmentPort;
  /** Which files of versions a device may have. */
  readonly rollouts: DownloadPort;
  readonly logger: Logger;
}

interface StoredObject {
  readonly objectKey: string;
  readonly sizeBytes: number;
}

/** What devices may fetch, and how its bytes reach them. */
export class DeviceDownloads {
  readonly #on: DeviceDownloadsOptions;
  readonly #smallFiles = new SmallFiles();

  constructor(options: DeviceDownloadsOptions) {
    this.#on = options;
  }

  /** @throws `not_found` unless an assignment or a rollout of this device names the digest */
  async open(deviceId: string, sha256: string): Promise<Download> {
    const object = await this.#allowed(deviceId, sha256);
    const { objectKey } = object;
    const stored = await this.#noting(objectKey, deviceId, () =>
      this.#on.objects.direct === undefined ? this.#openHere(object) : this.#openInBucket(object),
    );
    const broke = (error: unknown): void =>
      this.#on.logger.error({ error, objectKey, deviceId }, 'a file that a device may have could not be sent');
    return {
      ...stored,
      pump: (range, pool, send) => tellingWhyBroken((sending) => stored.pump(range, pool, sending), send, broke),
    };
  }

  /** A request that fetches the same bytes from the bucket; undefined where they come from here. @throws as `open` */
  async address(deviceId: string, sha256: string): Promise<DirectAddress | undefined> {
    const { direct } = this.#on;
    const object = await this.#allowed(deviceId, sha256);
    if (direct?.offered !== true) return undefined;
    await this.#noting(object.objectKey, deviceId, () => this.#requireWhole(object));
    return direct.address(object.objectKey);
  }

  /** A base of training, or a file of a version that a rollout tells or told the device to run. */
  async #allowed(deviceId: string, sha256: string): Promise<StoredObject> {
    const { assignments, rollouts } = this.#on;
    const desired = await rollouts.desiredObject(deviceId, sha256);
    if (desired !== undefined) return desired;
    try {
      return await assignments.baseObject(deviceId, sha256);
    } catch (error) {
      const told = toOctomilError(error).code === 'not_found' ? await rollouts.toldObject(deviceId, sha256) : undefined;
      if (told === undefined) throw error;
      return told;
    }
  }

  /** Notes what the object store has lost. */
  async #noting<T>(objectKey: string, deviceId: string, look: () => Promise<T>): Promise<T> {
    const { rollouts, logger } = this.#on;
    try {
      return await look();
    } catch (error) {
      if (toOctomilError(error).code === 'not_found') {
        logger.error({ objectKey, deviceId }, 'a file that a device may have is gone from the object store');
        await rollouts.objectMissing(objectKey);
      }
      throw error;
    }
  }

  async #openHere({ objectKey, sizeBytes }: StoredObject): Promise<Download> {
    const local = await this.#on.objects.localFile(objectKey);
    return {
      sizeBytes,
      pump: async (range, pool, send) =>
        sizeBytes <= SMALL_FILE_BYTES
          ? pumpBytes(await this.#smallFiles.read(local.path, sizeBytes), range, pool, send)
          : pumpFile(local.path, range, pool, send),
      release: () => local.release(),
    };
  }

  /** A range is read from the bucket as it is asked for: a copy of the whole would be made for each resume. */
  async #openInBucket(object: StoredObject): Promise<Download> {
    const { objectKey, sizeBytes } = object;
    await this.#requireWhole(object);
    return {
      sizeBytes,
      pump: (range, _pool, send) => pumpObject(this.#on.objects, objectKey, range, send),
      release: async () => undefined,
    };
  }

  /** @throws `not_found` where the store has no such object, or another in its place */
  async #requireWhole({ objectKey, sizeBytes }: StoredObject): Promise<void> {
    const found = await this.#on.objects.stat(objectKey);
    if (found?.sizeBytes !== sizeBytes) throw new OctomilError('not_found', `there is no whole object ${objectKey}`);
  }
}
