import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type AcquiredSource,
  type AcquireOptions,
  type DataSource,
  isRemoteSource,
  SourceFiles,
} from '@octomil/shared/data';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type Clock, systemClock } from '@octomil/shared/runtime';
import type { Environment } from '@octomil/shared/storage';
import type { AgentConfig } from '../config/agent-config.js';
import { environmentWithProxy } from '../config/proxy.js';
import { type Bandwidth, bandwidthLimit, unlimited } from '../connection/bandwidth.js';

export interface SiteDataOptions {
  /** Temporary copies; of this machine and of nobody else. */
  readonly folder: string;
  readonly maxBytes: number;
  /** Where credentials, endpoints and proxies are read. */
  readonly environment: Environment;
  readonly clock: Clock;
  /** Default: no limit. */
  readonly bandwidth?: Bandwidth;
}

/** Asking a store for versions takes this long at most. */
const VERSION_LIMIT_MS = 30_000;

/**
 * The site's data with local files. Remote files are fetched by this process, so that the ones that read them hold no
 * credentials; nothing of a cloud is loaded before a remote source is asked for.
 */
export class SiteData {
  readonly #options: SiteDataOptions;
  #files: Promise<SourceFiles> | undefined;
  readonly #stopping = new AbortController();

  constructor(options: SiteDataOptions) {
    this.#options = options;
  }

  /**
   * Clears what a killed process left.
   *
   * @param dataSets where none is remote, the folder goes
   */
  async start(dataSets: Readonly<Record<string, DataSource>>): Promise<void> {
    if (Object.values(dataSets).some(isRemoteSource)) await this.#open();
    else await rm(this.#options.folder, { recursive: true, force: true });
  }

  /**
   * The source with files that any process of this machine can read. Release it afterwards.
   *
   * @param options `columns`: keys of those that will be read; reading others gives nonsense. Default: all
   * @throws OctomilError as `SourceFiles.acquire`, with places in it: not to leave the site
   */
  async acquire(source: DataSource, options: AcquireOptions = {}): Promise<AcquiredSource> {
    if (!isRemoteSource(source)) return { source, release: async () => undefined };
    return this.#abortable(options.signal, async (signal) =>
      (await this.#open()).acquire(source, { ...options, signal }),
    );
  }

  /** Another one when the data of a remote source may have changed. @throws OctomilError as {@link acquire} */
  async version(source: DataSource, signal: AbortSignal): Promise<string> {
    const late = new AbortController();
    const callOff = this.#options.clock.after(VERSION_LIMIT_MS, () =>
      late.abort(new OctomilError('request_timeout', `its store did not answer within ${VERSION_LIMIT_MS / 1_000} s`)),
    );
    try {
      return await this.#abortable(AbortSignal.any([late.signal, signal]), async (either) =>
        (await this.#open()).version(source, either),
      );
    } finally {
      callOff();
    }
  }

  /** Ends downloads and removes all copies. Safe to repeat. */
  async stop(): Promise<void> {
    this.#stopping.abort(new OctomilError('cancelled', 'the agent stops'));
    const files = await this.#files?.catch(() => undefined);
    await files?.close();
  }

  async #abortable<T>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const stopping = this.#stopping.signal;
    const both = signal === undefined ? stopping : AbortSignal.any([stopping, signal]);
    try {
      both.throwIfAborted();
      return await work(both);
    } catch (error) {
      throw toOctomilError(both.aborted ? both.reason : error, both.aborted ? 'cancelled' : 'data_unreadable');
    }
  }

  #open(): Promise<SourceFiles> {
    const { bandwidth = unlimited, folder, maxBytes, environment, clock } = this.#options;
    this.#files ??= SourceFiles.open({
      ...{ folder, maxBytes, environment, clock },
      ...(bandwidth.limited ? { pace: (bytes: number, signal?: AbortSignal) => bandwidth.take(bytes, signal) } : {}),
    }).catch((error: unknown) => {
      // A full disk may have room later.
      this.#files = undefined;
      throw error;
    });
    return this.#files;
  }
}

/**
 * Lends a site's data to a command that looks at it beside the agent or without one: with copies of its own, which are gone
 * afterwards.
 */
export async function withSiteData<T>(config: AgentConfig, work: (data: SiteData) => Promise<T>): Promise<T> {
  const exists = (await stat(config.stateDir).catch(() => undefined))?.isDirectory() === true;
  const folder = exists ? join(config.stateDir, 'sources') : await mkdtemp(join(tmpdir(), 'octomil-sources-'));
  const data = new SiteData({
    folder,
    maxBytes: config.sourceCacheBytes,
    environment: environmentWithProxy(process.env, config.proxy),
    clock: systemClock,
    bandwidth: bandwidthLimit(config.policy.resources?.bandwidthMbit, systemClock),
  });
  try {
    return await work(data);
  } finally {
    await data.stop();
    if (!exists) await rm(folder, { recursive: true, force: true });
  }
}
