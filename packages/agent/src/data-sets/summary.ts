import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { type DataSource, locate } from '@octomil/shared/data';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { entryPoint, type Logger } from '@octomil/shared/runtime';
import { writeAtomically } from '../state/atomic-file.js';

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
/** Reads sources outside this process, in the order given. */
export type Summarize = (sources: readonly DataSource[], signal: AbortSignal) => Promise<SummaryOfSource[]>;

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
    const answered = once(child, 'message').then(([message]) => message as SummaryOfSource[]);
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
  /** Source settings, size and modification time: the same mark means the same summary. */
  readonly mark: string;
  readonly summary: SummaryOfSource;
}

/** Summaries of all data sets, made anew only for files that changed, also over restarts. */
export class DataSetSummaries {
  readonly #dataSets: Readonly<Record<string, DataSource>>;
  readonly #path: string;
  readonly #summarize: Summarize;
  readonly #logger: Logger;
  #remembered: Map<string, Remembered> | undefined;
  #running: Promise<boolean> | undefined;
  readonly #stopping = new AbortController();

  constructor(options: {
    dataSets: Readonly<Record<string, DataSource>>;
    path: string;
    summarize: Summarize;
    logger: Logger;
  }) {
    this.#dataSets = options.dataSets;
    this.#path = options.path;
    this.#summarize = options.summarize;
    this.#logger = options.logger;
  }

  /** As they are known now; one that was never read says so as its problem. */
  get current(): DataSetSummary[] {
    return Object.keys(this.#dataSets).map((name) => ({
      name,
      ...(this.#remembered?.get(name)?.summary ?? {
        rowCount: 0,
        format: '',
        digest: '',
        problem: 'it is still being read; ask again in a moment',
      }),
    }));
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

  /** Reads what changed. Calls during a run join it. @returns whether a summary is another one now */
  refresh(): Promise<boolean> {
    this.#running ??= this.#refresh().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running?.catch(() => undefined);
  }

  async #refresh(): Promise<boolean> {
    this.#remembered ??= await this.#load();
    const remembered = this.#remembered;
    const changed = Object.entries(this.#dataSets).flatMap(([name, source]) => {
      const mark = markOf(source);
      return remembered.get(name)?.mark === mark ? [] : [{ name, source, mark }];
    });
    if (changed.length === 0) return false;
    let summaries: SummaryOfSource[];
    try {
      summaries = await this.#summarize(
        changed.map(({ source }) => source),
        this.#stopping.signal,
      );
    } catch (error) {
      if (!this.#stopping.signal.aborted) this.#logger.error({ error }, 'the data sets could not be read');
      return false;
    }
    for (const [index, { name, mark }] of changed.entries()) {
      const summary = summaries[index];
      if (summary === undefined) continue;
      remembered.set(name, { mark, summary });
      if (summary.problem === '') this.#logger.info({ dataSet: name, rows: summary.rowCount }, 'data set read');
      else this.#logger.error({ dataSet: name }, `data set "${name}" cannot be used: ${summary.problem}`);
    }
    await writeAtomically(this.#path, JSON.stringify(Object.fromEntries(remembered))).catch((error: unknown) =>
      this.#logger.warn({ error }, 'the data set summaries could not be kept'),
    );
    return true;
  }

  async #load(): Promise<Map<string, Remembered>> {
    try {
      return new Map(Object.entries(JSON.parse(await readFile(this.#path, 'utf8')) as Record<string, Remembered>));
    } catch {
      return new Map();
    }
  }
}

function markOf(source: DataSource): string {
  try {
    const { files } = locate(source);
    return JSON.stringify([source, ...files.map(({ path, sizeBytes, modifiedMs }) => [path, sizeBytes, modifiedMs])]);
  } catch (error) {
    return JSON.stringify([source, toOctomilError(error).reason]);
  }
}
