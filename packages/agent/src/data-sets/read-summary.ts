import { type DataSource, formatOf, isRemoteSource } from '@octomil/shared/data';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { outwardProblem } from './outward-problem.js';
import type { SiteData } from './site-data.js';
import type { Summarize, SummaryAnswer, SummaryOfSource } from './summary.js';

export interface ReadSummary {
  readonly summary: SummaryOfSource;
  /** Why remote data could not be had, in full: for this site alone. */
  readonly error?: OctomilError;
  /** Of data that could be had and not be read: the problem in full, for this site alone. */
  readonly inFull?: string;
}

/**
 * The summary of one data set, wherever it lies. Of remote Parquet files nothing but the footers is fetched.
 *
 * @throws OctomilError `training_failed` when the reading process dies, `cancelled`
 */
export async function readSummary(
  source: DataSource,
  data: Pick<SiteData, 'acquire'>,
  summarize: Summarize,
  signal: AbortSignal,
): Promise<ReadSummary> {
  let local = { source, release: async () => {} };
  if (isRemoteSource(source)) {
    try {
      local = await data.acquire(source, { columns: [], signal });
    } catch (error) {
      signal.throwIfAborted();
      return unreachable(source, error);
    }
  }
  try {
    const [summary] = await summarize([local.source], signal);
    if (summary !== undefined) return readOf(summary);
    throw new OctomilError('training_failed', 'the process that reads the data sets gave no answer');
  } finally {
    await local.release();
  }
}

/**
 * All of a site's, in the order given: those of this machine by one process.
 *
 * @throws OctomilError as {@link readSummary}
 */
export async function readSummaries(
  sources: readonly DataSource[],
  data: Pick<SiteData, 'acquire'>,
  summarize: Summarize,
  signal: AbortSignal,
): Promise<ReadSummary[]> {
  const local = sources.filter((source) => !isRemoteSource(source));
  const found = local.length === 0 ? [] : await summarize(local, signal);
  const summaries: ReadSummary[] = [];
  for (const source of sources) {
    const summary = found[local.indexOf(source)];
    summaries.push(summary === undefined ? await readSummary(source, data, summarize, signal) : readOf(summary));
  }
  return summaries;
}

/** What is told apart from what is not. */
export function readOf({ inFull, ...summary }: SummaryAnswer): ReadSummary {
  return { summary, ...(inFull === undefined ? {} : { inFull }) };
}

/** What is told of remote data that cannot be had. */
export function unreachable(source: DataSource, thrown: unknown): Required<Pick<ReadSummary, 'summary' | 'error'>> {
  const error = toOctomilError(thrown, 'data_unreadable');
  const { code, reason } = outwardProblem(error);
  return { summary: { rowCount: 0, format: formatOf(source), digest: '', problem: `[${code}] ${reason}` }, error };
}
