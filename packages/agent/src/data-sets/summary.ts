import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFile, stat } from 'node:fs/promises';
import { type DataSource, isRemoteSource, locateData } from '@octomil/shared/data';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { entryPoint, type Logger } from '@octomil/shared/runtime';
import { writeAtomically } from '../state/atomic-file.js';
import { folderMark } from './folder-mark.js';
import { type ReadSummary, readLocal, readSummary, unreachable } from './read-summary.js';
import type { SiteData } from './site-data.js';

/** What the coordinator is told of a data set. */
export interface DataSetSummary {
  readonly name: string;
  /** Rounded down to tens. */
  readonly rowCount: number;
  readonly format: string;
  readonly digest: string;
  /** Empty, or why the source cannot be read. */
  readonly problem: string;
}

export type SummaryOfSource = Omit<DataSetSummary, 'name'>;
export interface SummaryAnswer extends SummaryOfSource {
  /** The problem for this site alone, with the names that do not leave it. */
  readonly inFull?: string;
}

/** Reads sources outside this process, in the order given. */
export type Summarize = (sources: readonly DataSource[], signal: AbortSignal) => Promise<SummaryAnswer[]>;

/**
 * Reads the sources in a process that ends afterwards: the table reader's memory never stays with the daemon.
 *
 * @throws OctomilError `training_failed` when that process dies, `cancelled`
 */
export const summarizeInProcess: Summarize = async (sources, signal) => {
  const entry = entryPoint(import.meta.url, 'summary-process');
  const child = fork(entry.path, {
    execArgv: entry.execArgv,
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  const kill = (): boolean => child.kill('SIGKILL');
  signal.addEventListener('abort', kill, { once: true });
  try {
    const died = once(child, 'exit').then(([code, name]) => {
      if (signal.aborted) throw new OctomilError('cancelled', 'reading the data sets was cancelled');
      throw new OctomilError('training_failed', `the process that reads the data sets ended (${name ?? code})`);
    });
    const answered = once(child, 'message').then(([message]) => message as SummaryAnswer[]);
    answered.catch(() => undefined);
    died.catch(() => undefined);
    child.send(sources);
    return await Promise.race([answered, died]);
  } finally {
    signal.removeEventListener('abort', kill);
    if (child.connected) child.disconnect();
  }
};

interface Remembered {
  /** Of source settings and what tells that the data changed: the same mark means the same summary. */
  readonly mark: string;
  readonly summary: SummaryOfSource;
}

export interface DataSetSummariesOptions {
  readonly dataSets: Readonly<Record<string, DataSource>>;
  readonly path: string;
  readonly summarize: Summarize;
  readonly data: Pick<SiteData, 'acquire' | 'version'>;
  readonly logger: Logger;
}

/** Summaries of all data sets, made anew only for data that changed, also over restarts. */
export class DataSetSummaries {
  readonly #options: DataSetSummariesOptions;
  #loading: Promise<Map<string, Remembered>> | undefined;
  #remembered: Map<string, Remembered> | undefined;
  readonly #running = new Map<string, Promise<boolean>>();
  readonly #stopping = new AbortController();

  constructor(options: DataSetSummariesOptions) {
    this.#options = options;
  }

  /** As they are known now; one that was never read says so as its problem. */
  get current(): DataSetSummary[] {
    return Object.keys(this.#options.dataSets).map((name) => ({
      name,
      ...(this.#remembered?.get(name)?.summary ?? {
        rowCount: 0,
        format: '',
        digest: '',
        problem: 'it is still being read; ask again in a moment',
      }),
    }));
  }

  /**
   * Data sets that are looked at together: those of this machine, in one process; a remote one by itself, since its store
   * may take its time.
   */
  get groups(): { readonly names: readonly string[]; readonly remote: boolean }[] {
    const { dataSets } = this.#options;
    const isRemote = (name: string): boolean => isRemoteSource(dataSets[name] ?? { path: '' });
    const names = Object.keys(dataSets);
    const local = names.filter((name) => !isRemote(name));
    return [
      ...(local.length === 0 ? [] : [{ names: local, remote: false }]),
      ...names.filter(isRemote).map((name) => ({ names: [name], remote: true })),
    ];
  }

  /** As of the last reading. @throws OctomilError `data_unreadable` with the data set's problem */
  digestOf(name: string): string {
    const summary = this.current.find((candidate) => candidate.name === name);
    if (summary !== undefined && summary.problem === '') return summary.digest;
    throw new OctomilError(
      'data_unreadable',
      `data set "${name}" cannot be used: ${summary?.problem ?? 'this site has none of this name'}`,
    );
  }

  /**
   * Reads what changed. Calls during a run join it.
   *
   * @param name this data set, with those that are looked at together with it. Default: all
   * @returns whether a summary is another one now
   */
  async refresh(name?: string): Promise<boolean> {
    const groups = this.groups.filter(({ names }) => name === undefined || names.includes(name));
    const changed = await Promise.all(groups.map(({ names }) => this.#joined(names)));
    return changed.includes(true);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.allSettled(this.#running.values());
  }

  #joined(names: readonly string[]): Promise<boolean> {
    const key = names.join(' ');
    let running = this.#running.get(key);
    if (running === undefined) {
      running = this.#refresh(names).finally(() => this.#running.delete(key));
      this.#running.set(key, running);
    }
    return running;
  }

  async #refresh(names: readonly string[]): Promise<boolean> {
    this.#loading ??= this.#load();
    this.#remembered = await this.#loading;
    const sources = names.flatMap((name) => {
      const source = this.#options.dataSets[name];
      return source === undefined ? [] : [{ name, source }];
    });
    try {
      const [first] = sources;
      if (first !== undefined && isRemoteSource(first.source))
        return await this.#refreshRemote(first.name, first.source);
      return await this.#refreshLocal(sources);
    } catch (error) {
      if (!this.#stopping.signal.aborted) this.#options.logger.error({ error }, 'the data sets could not be read');
      return false;
    }
  }

  async #refreshLocal(sources: readonly { readonly name: string; readonly source: DataSource }[]): Promise<boolean> {
    const marked = await Promise.all(
      sources.map(async ({ name, source }) => ({ name, source, mark: await markOf(source) })),
    );
    const changed = marked.filter(({ name, mark }) => this.#remembered?.get(name)?.mark !== mark);
    if (changed.length === 0) return false;
    const read = await readLocal(
      changed.map(({ source }) => source),
      this.#options.summarize,
      this.#stopping.signal,
    );
    const isNew = changed.map(({ name, mark }, index) => {
      const one = read[index];
      if (one === undefined) return false;
      // It is tried again, and told once.
      const isSame = one.died === true && this.#remembered?.get(name)?.summary.problem === one.summary.problem;
      if (!isSame) this.#remember(name, one.died === true ? '' : mark, one);
      return !isSame;
    });
    if (!isNew.includes(true)) return false;
    await this.#keep();
    return true;
  }

  async #refreshRemote(name: string, source: DataSource): Promise<boolean> {
    const { data, summarize } = this.#options;
    const { signal } = this.#stopping;
    let mark = '';
    let read: ReadSummary;
    try {
      mark = hashOf([source, await data.version(source, signal)]);
      if (this.#remembered?.get(name)?.mark === mark) return false;
      read = await readSummary(source, data, summarize, signal);
    } catch (error) {
      signal.throwIfAborted();
      // The reading process died: that says nothing of the store.
      if (mark !== '') throw error;
      read = unreachable(source, error);
    }
    // Data that could not be had are asked for again, whatever their version.
    if (read.error !== undefined) mark = hashOf(['not had', source, read.summary.problem]);
    if (this.#remembered?.get(name)?.mark === mark) return false;
    this.#remember(name, mark, read);
    await this.#keep();
    return true;
  }

  #remember(name: string, mark: string, { summary, error, inFull }: ReadSummary): void {
    const { logger } = this.#options;
    this.#remembered?.set(name, { mark, summary });
    if (summary.problem === '') logger.info({ dataSet: name, rows: summary.rowCount }, 'data set read');
    else {
      const problem = error === undefined ? (inFull ?? summary.problem) : `[${error.code}] ${error.reason}`;
      logger.error({ dataSet: name }, `data set "${name}" cannot be used: ${problem}`);
    }
  }

  async #keep(): Promise<void> {
    const { path, logger } = this.#options;
    await writeAtomically(path, JSON.stringify(Object.fromEntries(this.#remembered ?? []))).catch((error: unknown) =>
      logger.warn({ error }, 'the data set summaries could not be kept'),
    );
  }

  async #load(): Promise<Map<string, Remembered>> {
    try {
      const text = await readFile(this.#options.path, 'utf8');
      return new Map(Object.entries(JSON.parse(text) as Record<string, Remembered>));
    } catch {
      return new Map();
    }
  }
}

async function markOf(source: DataSource): Promise<string> {
  try {
    const { path, files: listed, images } = source;
    if (images !== undefined && listed === undefined && (await stat(path)).isDirectory())
      return hashOf([source, await folderMark(path)]);
    const { files } = locateData(source);
    return hashOf([source, ...files.map(({ path, sizeBytes, modifiedMs }) => [path, sizeBytes, modifiedMs])]);
  } catch (error) {
    return hashOf([source, toOctomilError(error).reason]);
  }
}

/** A source's URL may hold a signature, which is not written down. */
function hashOf(parts: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}
