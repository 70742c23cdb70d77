import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { FORMAT_EXTENSIONS, isModelFormat } from '@octomil/shared/formats';
import type { Clock, EntryPoint, Logger, Service } from '@octomil/shared/runtime';
import { ABANDONED_AFTER_MS, type ObjectStore, removeOldEntries } from '@octomil/shared/storage';
import type { Kysely } from 'kysely';
import type { Database } from '../database/database.js';
import type { Tables } from '../database/tables.js';
import type { JobQueue, Jobs, JobWorker } from '../jobs/index.js';
import { artifactKey, DOCUMENT_FORMAT, lockObject } from '../models/index.js';
import type { Artifact } from '../models/version-store.js';
import { planConversion } from './conversion-plan.js';
import { type ClaimedConversion, type Conversion, ConversionStore } from './conversion-store.js';
import type { Converter } from './converters.js';
import { runBuiltIn } from './run-built-in.js';
import { runCommand } from './run-command.js';

export interface ConversionSettings {
  /** Names this process as owner of a conversion. */
  readonly coordinatorId: string;
  /** On the objects' file system, so that what is made is renamed into place. */
  readonly workFolder: string;
  /** Whether other coordinators use the folder too. */
  readonly workFolderShared: boolean;
  readonly converters: readonly Converter[];
  /** A conversion whose owner was silent for so long is taken over. Default 60 s. */
  readonly ownerLeaseMs?: number;
  /** Default 5 s. */
  readonly sweepEveryMs?: number;
  /** After a passing failure, doubled with each further one. Default 10 s. */
  readonly retryAfterMs?: number;
  /** One that is made here may take so long. Default 10 minutes. */
  readonly timeoutMs?: number;
  /** Largest file that is converted here, in bytes. Default 2 GiB. */
  readonly maxInputBytes?: number;
}

export interface ConversionServiceOptions {
  readonly database: Database;
  readonly jobs: Jobs;
  readonly objects: ObjectStore;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly settings: ConversionSettings;
  /** The thread's file; tests bring others. */
  readonly entry?: EntryPoint;
}

/** Formats of versions that are made after they were asked for. */
export interface ConversionService extends Service {
  /**
   * Asks for formats within the transaction that makes or changes the version; failed ones are tried again. Formats that
   * the version holds are left out. A draft becomes `converting`.
   *
   * @throws OctomilError `conversion_failed` naming what can be converted into what, `wrong_state`, `version_not_found`
   */
  request(versionId: string, formats: readonly string[], transaction: Kysely<Tables>): Promise<void>;
  /** Rows by version. */
  statusOf(versionIds: readonly string[]): Promise<ReadonlyMap<string, readonly Conversion[]>>;
  /** Forgets a conversion that waits or failed. @throws OctomilError `not_found`, `wrong_state` */
  drop(versionId: string, format: string): Promise<void>;
  /** Look now, after a request was committed. Never throws. */
  wake(versionId: string): Promise<void>;
  start(): Promise<void>;
}

const QUEUE = 'conversions';
const CHANNEL = 'conversions';
/** After so many processes ended over it, a conversion is at fault itself. */
const MAX_ATTEMPTS = 3;
/** What fails in passing, as the object store does, is tried so often again: for the better part of an hour. */
const MAX_PASSING_FAILURES = 10;
const LONGEST_DELAY_MS = 600_000;

export function createConversionService(options: ConversionServiceOptions): ConversionService {
  return new Conversions(options);
}

class Conversions implements ConversionService {
  readonly #on: ConversionServiceOptions;
  readonly #store: ConversionStore;
  readonly #owner: string;
  readonly #leaseMs: number;
  readonly #stop = new AbortController();
  #queue: JobQueue<{ versionId: string }> | undefined;
  #worker: JobWorker | undefined;
  #unlisten = async (): Promise<void> => undefined;
  #cancelSweep = (): void => undefined;
  #working: Promise<void> | undefined;
  #again = false;

  constructor(options: ConversionServiceOptions) {
    this.#on = options;
    this.#store = new ConversionStore(options.database);
    this.#owner = options.settings.coordinatorId;
    this.#leaseMs = options.settings.ownerLeaseMs ?? 60_000;
  }

  async request(versionId: string, formats: readonly string[], transaction: Kysely<Tables>): Promise<void> {
    const have = new Set((await this.#store.artifacts(versionId, transaction)).map(({ format }) => format));
    const missing = [...new Set(formats)].filter((format) => !have.has(format));
    // All of them are looked at before any is asked for: the request is refused as a whole.
    for (const format of missing) planConversion(have, format, this.#on.settings.converters);
    await this.#store.add(versionId, missing, transaction);
    // Heard by every coordinator once this is committed, not before.
    if (missing.length > 0) await this.#on.database.notify(CHANNEL, versionId, transaction);
  }

  async statusOf(versionIds: readonly string[]): Promise<ReadonlyMap<string, readonly Conversion[]>> {
    return Map.groupBy(await this.#store.list(versionIds), ({ version_id }) => version_id);
  }

  drop(versionId: string, format: string): Promise<void> {
    return this.#store.drop(versionId, format);
  }

  async wake(versionId: string): Promise<void> {
    try {
      await this.#queue?.add({ versionId });
    } catch (error) {
      this.#on.logger.warn({ error, versionId }, 'a conversion could not be announced; the next sweep finds it');
    }
  }

  async start(): Promise<void> {
    const { jobs, database, clock, settings } = this.#on;
    await mkdir(settings.workFolder, { recursive: true });
    const before = settings.workFolderShared ? clock.now() - ABANDONED_AFTER_MS : Number.POSITIVE_INFINITY;
    await removeOldEntries(settings.workFolder, before);
    this.#queue = await jobs.queue(QUEUE);
    this.#worker = await jobs.worker(QUEUE, async () => void this.#look(), 1);
    this.#unlisten = await database.listen(CHANNEL, () => void this.#look());
    this.#sweep();
  }

  /** Ends what is being converted; it goes back into the line. Safe to repeat. */
  async stop(): Promise<void> {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort(new OctomilError('cancelled', 'the coordinator is stopping'));
    this.#cancelSweep();
    await this.#unlisten();
    await this.#worker?.close();
    await this.#queue?.close();
    await this.#working;
    await this.#store.release(this.#owner).catch(() => undefined);
  }

  #sweep(): void {
    void this.#look();
    this.#cancelSweep = this.#on.clock.after(this.#on.settings.sweepEveryMs ?? 5_000, () => this.#sweep());
  }

  /** One at a time, the oldest first, until none is left. Calls that come meanwhile make it look once more. */
  #look(): Promise<void> {
    if (this.#stop.signal.aborted) return Promise.resolve();
    this.#again = true;
    this.#working ??= this.#drain().finally(() => {
      this.#working = undefined;
    });
    return this.#working;
  }

  async #drain(): Promise<void> {
    try {
      while (this.#again && !this.#stop.signal.aborted) {
        this.#again = false;
        const claimed = await this.#store.claim(this.#owner, this.#leaseMs);
        if (claimed === undefined) continue;
        this.#again = true;
        await this.#convert(claimed);
      }
    } catch (error) {
      this.#on.logger.error({ error }, 'conversions could not be looked after; the next sweep tries again');
    }
  }

  async #convert(claimed: ClaimedConversion): Promise<void> {
    const { logger, settings, clock } = this.#on;
    const lost = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, lost.signal]);
    const cancelRenewal = this.#renewing(claimed, lost);
    const startedAtMs = clock.now();
    let folder: string | undefined;
    try {
      folder = await mkdtemp(join(settings.workFolder, 'conversion-'));
      if (claimed.attempt > MAX_ATTEMPTS) {
        throw new OctomilError(
          'conversion_failed',
          `${MAX_ATTEMPTS} processes ended while they converted; it may need more memory than there is`,
        );
      }
      const finished = await this.#make(claimed, folder, signal);
      const seconds = (clock.now() - startedAtMs) / 1000;
      if (finished) logger.info({ ...claimed, seconds }, 'made a format of a version');
    } catch (thrown) {
      // Whoever took it over, or the next start, does it again.
      if (signal.aborted) return;
      const error = toOctomilError(thrown);
      logger.warn({ error: thrown, ...claimed }, 'a format of a version could not be made');
      const { passingFailures } = claimed;
      if (error.entry.retry === 'never' || passingFailures >= MAX_PASSING_FAILURES) {
        await this.#store.fail(claimed, this.#owner, error);
      } else {
        const delayMs = Math.min((settings.retryAfterMs ?? 10_000) * 2 ** passingFailures, LONGEST_DELAY_MS);
        await this.#store.postpone(claimed, this.#owner, error, delayMs);
      }
    } finally {
      cancelRenewal();
      if (folder !== undefined) await rm(folder, { recursive: true, force: true });
    }
  }

  /** @returns false when another process has it meanwhile */
  async #make(claimed: ClaimedConversion, folder: string, signal: AbortSignal): Promise<boolean> {
    const { objects, clock, settings } = this.#on;
    const { versionId, format } = claimed;
    const artifacts = await this.#store.artifacts(versionId);
    const plan = planConversion(new Set(artifacts.map((artifact) => artifact.format)), format, settings.converters);
    const outputName = `model.${isModelFormat(format) ? FORMAT_EXTENSIONS[format] : format}`;
    const source = artifacts.find((artifact) => artifact.format === plan.from);
    const input = await objects.localFile(source?.object_key ?? '');
    try {
      if (plan.kind === 'command') {
        const inputName = `input.${isModelFormat(plan.from) ? FORMAT_EXTENSIONS[plan.from] : plan.from}`;
        const { converter } = plan;
        const path = await runCommand({
          converter,
          inputPath: input.path,
          inputName,
          outputName,
          folder,
          clock,
          signal,
        });
        return await this.#finish(claimed, outputName, path, await measure(path));
      }
      const document = artifacts.find((artifact) => artifact.format === DOCUMENT_FORMAT);
      const documentFile =
        plan.withDocument && document !== undefined ? await objects.localFile(document.object_key) : undefined;
      try {
        const outputPath = join(folder, outputName);
        const made = await runBuiltIn({
          options: {
            inputPath: input.path,
            to: plan.to,
            outputPath,
            ...(documentFile === undefined ? {} : { documentPath: documentFile.path }),
            ...(settings.maxInputBytes === undefined ? {} : { maxInputBytes: settings.maxInputBytes }),
          },
          timeoutMs: settings.timeoutMs ?? 600_000,
          clock,
          signal,
          ...(this.#on.entry === undefined ? {} : { entry: this.#on.entry }),
        });
        return await this.#finish(claimed, outputName, outputPath, made);
      } finally {
        await documentFile?.release();
      }
    } finally {
      await input.release();
    }
  }

  /** The object first, then the row that names it, in one transaction with the state. */
  #finish(
    claimed: ClaimedConversion,
    fileName: string,
    path: string,
    { sha256, sizeBytes }: { readonly sha256: string; readonly sizeBytes: number },
  ): Promise<boolean> {
    const { objects } = this.#on;
    const key = artifactKey(sha256);
    const artifact: Omit<Artifact, 'version_id' | 'created_at'> = {
      format: claimed.format,
      file_name: fileName,
      object_key: key,
      sha256,
      size_bytes: sizeBytes,
    };
    return this.#store.finish(claimed, this.#owner, artifact, async (transaction) => {
      await lockObject(transaction, key);
      // There already when the transaction is repeated, or when another version has the same file.
      if ((await objects.stat(key))?.sizeBytes !== sizeBytes) await objects.putFile(key, path);
    });
  }

  #renewing(claimed: ClaimedConversion, lost: AbortController): () => void {
    let cancel = (): void => undefined;
    const schedule = (): void => {
      cancel = this.#on.clock.after(this.#leaseMs / 3, () => {
        this.#store.renew(claimed, this.#owner, this.#leaseMs).then(
          (held) => {
            if (held) schedule();
            else lost.abort();
          },
          // The database is away: the lease decides.
          () => schedule(),
        );
      });
    };
    schedule();
    return () => cancel();
  }
}

async function measure(path: string): Promise<{ sha256: string; sizeBytes: number }> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  for await (const chunk of createReadStream(path) as AsyncIterable<Uint8Array>) {
    hash.update(chunk);
    sizeBytes += chunk.length;
  }
  return { sha256: hash.digest('hex'), sizeBytes };
}
