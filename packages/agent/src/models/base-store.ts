import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { Bandwidth } from '../connection/bandwidth.js';
import { downloadBase } from './download.js';
import type { BaseRef, BaseTransport } from './transports.js';

/** A base that is on disk and verified; it is not evicted before `release`. */
export interface HeldBase {
  readonly path: string;
  release(): void;
}

export interface BaseStoreOptions {
  readonly folder: string;
  readonly maxBytes: number;
  readonly transports: readonly BaseTransport[];
  readonly clock: Clock;
  readonly logger: Logger;
  /** Files that must stay (deployed, or wanted for that); they do not count towards `maxBytes`. */
  readonly referenced?: (sha256: string) => boolean;
  readonly onDownloaded?: (sizeBytes: number) => void;
  /** Default: no limit. */
  readonly bandwidth?: Bandwidth;
}

interface Kept {
  holders: number;
}

interface Flight {
  readonly controller: AbortController;
  readonly done: Promise<void>;
  readonly listeners: Set<(doneBytes: number) => void>;
}

const SUFFIX = '.safetensors';

/** Bases by digest on disk: fetched once however many ask, kept within a size, least recently used dropped first. */
export class BaseStore {
  readonly #options: BaseStoreOptions;
  /** Verified files by digest. */
  readonly #kept = new Map<string, Kept>();
  /** Sizes of all files in the folder by name, least recently used first; read once, then kept up. */
  readonly #files: Promise<Map<string, number>>;
  readonly #flights = new Map<string, Flight>();

  constructor(options: BaseStoreOptions) {
    this.#options = options;
    this.#files = filesByUse(options.folder);
  }

  /**
   * The base's file, from the cache or the coordinator.
   *
   * @throws OctomilError as `downloadBase`; `cancelled` (the signal's reason) when the signal aborts: the download goes
   * on while others wait for it
   */
  async hold(
    base: BaseRef,
    signal: AbortSignal,
    onBytes: (doneBytes: number) => void = () => undefined,
  ): Promise<HeldBase> {
    if (!/^[0-9a-f]{64}$/.test(base.sha256)) {
      throw new OctomilError(
        'invalid_input',
        `"${base.sha256.slice(0, 80)}" is not a SHA-256 in lower-case hexadecimal`,
      );
    }
    // Before a byte of it comes: it would fill the disk first.
    if (base.sizeBytes > this.#options.maxBytes) throw this.#tooLarge(base);
    const path = join(this.#options.folder, `${base.sha256}${SUFFIX}`);
    if (this.#kept.has(base.sha256) && !(await exists(path))) this.#kept.delete(base.sha256);
    if (!this.#kept.has(base.sha256)) await this.#join(base, path, signal, onBytes);
    const kept = this.#kept.get(base.sha256) ?? { holders: 0 };
    kept.holders += 1;
    this.#kept.set(base.sha256, kept);
    void this.#note(base);
    let released = false;
    return {
      path,
      release: () => {
        if (released) return;
        released = true;
        kept.holders -= 1;
        void this.#touch(path);
      },
    };
  }

  /** Bytes that are not on disk yet; those of a cut download count as there. */
  async missingBytes(base: BaseRef): Promise<number> {
    const path = join(this.#options.folder, `${base.sha256}${SUFFIX}`);
    const found = (await stat(path).catch(() => undefined)) ?? (await stat(`${path}.part`).catch(() => undefined));
    return Math.max(0, base.sizeBytes - (found?.size ?? 0));
  }

  /**
   * Forgets a base that nobody will ask for again, and what a cut download left of it; one that is held, under way or
   * referenced stays.
   */
  async drop(sha256: string): Promise<void> {
    const flight = this.#flights.get(sha256);
    if (flight?.controller.signal.aborted === true) await flight.done.catch(() => undefined);
    if ((this.#kept.get(sha256)?.holders ?? 0) > 0 || this.#flights.has(sha256)) return;
    if (this.#options.referenced?.(sha256) === true) return;
    this.#kept.delete(sha256);
    const files = await this.#files;
    for (const name of [`${sha256}${SUFFIX}`, `${sha256}${SUFFIX}.part`]) {
      files.delete(name);
      await rm(join(this.#options.folder, name), { force: true });
    }
  }

  #tooLarge(base: BaseRef): OctomilError {
    return new OctomilError(
      'insufficient_storage',
      `base ${base.sha256.slice(0, 12)} has ${base.sizeBytes} bytes and the agent may keep ${this.#options.maxBytes}; raise models_cache_mb`,
    );
  }

  /** Drops what was not used for longest until the rest fits; cut downloads count as well. */
  async #evict(): Promise<void> {
    const files = await this.#files;
    const { referenced = () => false } = this.#options;
    let total = 0;
    for (const [name, sizeBytes] of files) if (!referenced(digestOf(name))) total += sizeBytes;
    for (const [name, sizeBytes] of files) {
      if (total <= this.#options.maxBytes) return;
      const sha256 = digestOf(name);
      if (referenced(sha256)) continue;
      if ((this.#kept.get(sha256)?.holders ?? 0) > 0 || this.#flights.has(sha256)) continue;
      this.#kept.delete(sha256);
      files.delete(name);
      await rm(join(this.#options.folder, name), { force: true });
      total -= sizeBytes;
    }
  }

  /** The file is there and was just used. */
  async #note(base: BaseRef): Promise<void> {
    const files = await this.#files;
    const name = `${base.sha256}${SUFFIX}`;
    files.delete(`${name}.part`);
    files.delete(name);
    files.set(name, base.sizeBytes);
  }

  async #touch(path: string): Promise<void> {
    const nowSeconds = this.#options.clock.now() / 1_000;
    await utimes(path, nowSeconds, nowSeconds).catch(() => undefined);
  }

  async #join(base: BaseRef, path: string, signal: AbortSignal, onBytes: (doneBytes: number) => void): Promise<void> {
    let flight = this.#flights.get(base.sha256);
    if (flight?.controller.signal.aborted) {
      await flight.done.catch(() => undefined);
      flight = this.#flights.get(base.sha256);
    }
    flight ??= this.#start(base, path);
    const listener = (doneBytes: number): void => onBytes(doneBytes);
    flight.listeners.add(listener);
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    const onAbort = (): void => reject(toOctomilError(signal.reason, 'cancelled'));
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      await Promise.race([flight.done, aborted]);
    } finally {
      signal.removeEventListener('abort', onAbort);
      flight.listeners.delete(listener);
      if (flight.listeners.size === 0)
        flight.controller.abort(new OctomilError('cancelled', 'nobody waits for this base'));
    }
  }

  #start(base: BaseRef, path: string): Flight {
    const controller = new AbortController();
    const listeners = new Set<(doneBytes: number) => void>();
    const done = this.#obtain(base, path, controller.signal, listeners).finally(() => {
      this.#flights.delete(base.sha256);
    });
    // Whoever waits has the failure from the race; a flight that everybody left has nobody.
    done.catch(() => undefined);
    const flight = { controller, done, listeners };
    this.#flights.set(base.sha256, flight);
    return flight;
  }

  async #obtain(
    base: BaseRef,
    path: string,
    signal: AbortSignal,
    listeners: ReadonlySet<(doneBytes: number) => void>,
  ): Promise<void> {
    if (await isIntact(path, base, signal)) {
      this.#kept.set(base.sha256, { holders: 0 });
      await this.#note(base);
      return;
    }
    const { bandwidth, clock, logger, transports } = this.#options;
    await downloadBase({
      base,
      path,
      transports,
      clock,
      logger,
      signal,
      bandwidth,
      onBytes: (doneBytes) => {
        for (const listener of listeners) listener(doneBytes);
      },
    });
    this.#kept.set(base.sha256, { holders: 0 });
    await this.#note(base);
    this.#options.onDownloaded?.(base.sizeBytes);
    await this.#evict();
    if (!this.#kept.has(base.sha256)) {
      throw this.#tooLarge(base);
    }
  }
}

/** Files are named by it. */
function digestOf(name: string): string {
  return name.split('.')[0] ?? '';
}

async function filesByUse(folder: string): Promise<Map<string, number>> {
  const files: { name: string; sizeBytes: number; usedAtMs: number }[] = [];
  for (const name of await readdir(folder).catch(() => [])) {
    const found = await stat(join(folder, name)).catch(() => undefined);
    if (found?.isFile()) files.push({ name, sizeBytes: found.size, usedAtMs: found.mtimeMs });
  }
  files.sort((a, b) => a.usedAtMs - b.usedAtMs);
  return new Map(files.map(({ name, sizeBytes }) => [name, sizeBytes]));
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

/** What an earlier process left is hashed once: a power cut may have damaged it. */
async function isIntact(path: string, base: BaseRef, signal: AbortSignal): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined || found.size !== base.sizeBytes) return false;
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1_048_576, signal })) hash.update(chunk as Buffer);
  return hash.digest('hex') === base.sha256;
}
