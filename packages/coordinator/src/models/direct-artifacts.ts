import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type Clock, type Logger, noteNetworkGarbage } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { Database } from '../database/database.js';
import type { Jobs } from '../jobs/index.js';
import { ArrivedUploads } from '../transfers/arrived-uploads.js';
import { type DirectRequests, DirectUploads, incomingKey } from '../transfers/direct-uploads.js';
import { type ArtifactObjects, artifactKey, lockObject } from './artifact-objects.js';
import {
  type ArtifactUpload,
  ArtifactUploadStore,
  type AskedVersion,
  type ClaimedArtifact,
} from './artifact-upload-store.js';
import { checkModelFile } from './check-model-file.js';
import { requestFormats, type VersionConversions } from './conversion-port.js';
import type { Registry } from './registry.js';
import { wrongDigest } from './wrong-digest.js';

export interface DirectArtifactsOptions {
  readonly database: Database;
  readonly registry: Registry;
  readonly objects: ObjectStore;
  readonly artifacts: ArtifactObjects;
  /** Default: what arrived is looked for, without wake-ups. */
  readonly jobs?: Jobs | undefined;
  /** Of who checks a file that arrived. Default 30 s. */
  readonly checkLeaseMs?: number | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Makes other formats of what counts. */
  readonly conversions?: VersionConversions;
}

/** So many requests are signed at once: whoever sends more parts asks again. */
const REQUESTS_AT_ONCE = 100;
/** Of one signed request. */
const REQUEST_VALID_MS = 3_600_000;
const SWEEP_MS = 60_000;

/** Files of versions that their senders bring to the bucket themselves, and the checks before they count. */
export class DirectArtifacts {
  readonly #on: DirectArtifactsOptions;
  readonly #rows: ArtifactUploadStore;
  readonly #direct: DirectUploads;
  readonly #arrived: ArrivedUploads<ClaimedArtifact>;
  readonly #ownerId = randomUUID();
  #running = false;
  #cancelSweep = (): void => undefined;
  #sweeping: Promise<unknown> = Promise.resolve();

  constructor(options: DirectArtifactsOptions) {
    const { database, registry, objects, jobs, checkLeaseMs, clock, logger } = options;
    this.#on = options;
    this.#rows = new ArtifactUploadStore(database, registry.versions);
    this.#direct = new DirectUploads({ objects, rows: this.#rows, clock, logger });
    this.#arrived = new ArrivedUploads({
      queue: 'arrived-artifacts',
      rows: this.#rows,
      jobs,
      ownerId: this.#ownerId,
      leaseMs: checkLeaseMs,
      clock,
      logger,
      validate: (upload) => this.#validate(upload),
      refused: async (upload, error) => {
        if (await this.#rows.refuse(upload, this.#ownerId, error)) await this.#direct.drop(upload.id);
      },
    });
  }

  /** Whether objects lie in a bucket that others may send to. */
  get offered(): boolean {
    return this.#on.objects.direct !== undefined;
  }

  /** Parts that the bucket takes must come one after the other. */
  get inOrder(): boolean {
    return this.#on.objects.direct?.inOrder === true;
  }

  async start(): Promise<void> {
    if (!this.offered || this.#running) return;
    this.#running = true;
    await this.#arrived.start();
    this.#sweep();
  }

  async stop(): Promise<void> {
    if (!this.#running) return;
    this.#running = false;
    this.#cancelSweep();
    await this.#arrived.stop();
    await this.#sweeping;
  }

  find(storageKey: string): Promise<ArtifactUpload | undefined> {
    return this.#rows.find(storageKey);
  }

  /** Requests for parts that the bucket does not have; none when the parts come here or all have arrived. */
  async requests(
    upload: Pick<ArtifactUpload, 'storageKey' | 'modelId' | 'fileName' | 'layout' | 'expiresAt'>,
  ): Promise<DirectRequests & { readonly state: ArtifactUpload['state'] }> {
    const nothing = { parts: [], received: [], more: false, arrived: false };
    if (!this.offered) return { ...nothing, state: 'open' };
    const row = await this.#rows.begin(upload);
    if (row.state !== 'open') return { ...nothing, state: row.state };
    const leftMs = row.expiresAt.getTime() - this.#on.clock.now();
    const expiresInMs = Math.max(1000, Math.min(REQUEST_VALID_MS, leftMs));
    return { ...(await this.#direct.requests({ ...row, expiresInMs }, REQUESTS_AT_ONCE)), state: 'open' };
  }

  /**
   * A version that awaits what arrived in the bucket. Repeating it answers the same.
   *
   * @returns its id; undefined when not all of it is there
   * @throws OctomilError `conflict` when the version takes no such file; why it was refused, when it was
   */
  async confirm(upload: ArtifactUpload, asked: AskedVersion): Promise<string | undefined> {
    if (upload.state === 'abandoned') {
      if (upload.problem !== undefined) throw upload.problem;
      return undefined;
    }
    if (upload.state === 'open') {
      if (!(await this.#direct.arrived(upload))) return undefined;
      const versionId = await this.#rows.arrive(upload, asked).catch(async (error: unknown) => {
        const problem = toOctomilError(error);
        // No version takes it, now or later.
        if (problem.entry.retry === 'never') await this.giveUp(upload, problem);
        throw error;
      });
      await this.#arrived.add(upload.id);
      return versionId;
    }
    return upload.versionId ?? undefined;
  }

  /** It came another way, or is of no use. Safe to repeat. */
  async giveUp(upload: ArtifactUpload, problem?: OctomilError): Promise<void> {
    await this.#rows.abandon(upload.id, problem);
    await this.#direct.drop(upload.id).catch((error: unknown) => {
      this.#on.logger.warn({ error, id: upload.id }, 'could not remove an upload from the bucket; trying again later');
    });
  }

  async #validate(upload: ClaimedArtifact): Promise<void> {
    const { objects, artifacts, conversions } = this.#on;
    const { asked, layout, fileName } = upload;
    if (asked === undefined) throw new OctomilError('internal', 'an upload arrived that nobody confirmed');
    // On Azure its sender could put a blob of any size, which must not come to our disk.
    const arrived = await objects.stat(incomingKey(upload.id));
    if (arrived !== undefined) requireAnnounced(arrived.sizeBytes, layout.sizeBytes);
    // From here on it is our copy that is checked and kept: its sender may still be able to replace what lies there.
    const local = await objects.localFile(incomingKey(upload.id), layout.sizeBytes);
    let key: string | undefined;
    try {
      const { size } = await stat(local.path);
      requireAnnounced(size, layout.sizeBytes);
      const sha256 = await digestOf(local.path);
      if (asked.sha256 !== undefined && asked.sha256 !== sha256) throw wrongDigest(sha256, asked.sha256);
      await checkModelFile(local.path, asked.format, size);
      key = artifactKey(sha256);
      const kept = key;
      // Before the transaction, which must not last as long as the bytes do.
      await objects.put(kept, readFrom(local.path));
      const artifact = { format: asked.format, file_name: fileName, object_key: kept, sha256, size_bytes: size };
      await this.#rows.count(upload, this.#ownerId, artifact, async (version, transaction) => {
        const formats = { asked: asked.formats, uploaded: [asked.format] };
        await requestFormats(conversions, version.id, formats, transaction);
        await lockObject(transaction, kept);
        // The last version with the same file may have been deleted meanwhile.
        if ((await objects.stat(kept))?.sizeBytes !== size) await objects.put(kept, readFrom(local.path));
      });
    } catch (error) {
      if (key !== undefined) await artifacts.deleteUnreferenced([key]).catch(() => undefined);
      throw error;
    } finally {
      await local.release();
    }
    await this.#direct.drop(upload.id).catch((error: unknown) => {
      this.#on.logger.warn({ error, id: upload.id }, 'could not remove an upload from the bucket; trying again later');
    });
  }

  #sweep(): void {
    if (!this.#running) return;
    this.#sweeping = this.#rows
      .expire()
      .then(() => this.#direct.clean())
      .catch((error: unknown) => {
        this.#on.logger.warn({ error }, 'could not look for uploads that are over; trying again');
      })
      .finally(() => {
        if (this.#running) this.#cancelSweep = this.#on.clock.after(SWEEP_MS, () => this.#sweep());
      });
  }
}

function requireAnnounced(arrivedBytes: number, announcedBytes: number): void {
  if (arrivedBytes === announcedBytes) return;
  throw new OctomilError(
    'transfer_incomplete',
    `${arrivedBytes} bytes arrived, not the ${announcedBytes} that were announced; upload the file again`,
    { details: { received_bytes: arrivedBytes, file_size: announcedBytes } },
  );
}

function readFrom(path: string): AsyncIterable<Uint8Array> {
  return createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Uint8Array>;
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of readFrom(path)) {
    hash.update(chunk);
    noteNetworkGarbage(chunk.length);
  }
  return hash.digest('hex');
}
