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
  /** The process that was to read it died, which says nothing of the data. */
  readonly died?: true;
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
 * All of a site's, in the order given.
 *
 * @throws OctomilError `cancelled`
 */
export async function readSummaries(
  sources: readonly DataSource[],
  data: Pick<SiteData, 'acquire'>,
  summarize: Summarize,
  signal: AbortSignal,
): Promise<ReadSummary[]> {
  const local = sources.filter((source) => !isRemoteSource(source));
  const found = local.length === 0 ? [] : await readLocal(local, summarize, signal);
  const summaries: ReadSummary[] = [];
  for (const source of sources) {
    const here = found[local.indexOf(source)];
    summaries.push(
      here ??
        (await readSummary(source, data, summarize, signal).catch((error: unknown) => {
          signal.throwIfAborted();
          return died(source, error);
        })),
    );
  }
  return summaries;
}

/**
 * Sources of this machine, in the order given: by one process where that lives, or else each by one of its own, since what
 * ends it must not hide the other data sets. Of one that could not be read so, nothing is known but `died`.
 *
 * @throws OctomilError `cancelled`
 */
export async function readLocal(
  sources: readonly DataSource[],
  summarize: Summarize,
  signal: AbortSignal,
): Promise<ReadSummary[]> {
  try {
    const answers = await summarize(sources, signal);
    if (answers.length !== sources.length) {
      throw new OctomilError('training_failed', 'the process that reads the data sets gave no answer');
    }
    return answers.map(readOf);
  } catch (thrown) {
    signal.throwIfAborted();
    const [only] = sources;
    if (only !== undefined && sources.length === 1) return [died(only, thrown)];
    const read: ReadSummary[] = [];
    for (const source of sources) read.push(...(await readLocal([source], summarize, signal)));
    return read;
  }
}

/** What is told where the process that was to read the data died. */
function died(source: DataSource, thrown: unknown): ReadSummary {
  const { code, reason } = toOctomilError(thrown, 'training_failed');
  return { summary: { rowCount: 0, format: formatOf(source), digest: '', problem: `[${code}] ${reason}` }, died: true };
}

/** What is told apart from what is not. */
function readOf({ inFull, ...summary }: SummaryAnswer): ReadSummary {
  return { summary, ...(inFull === undefined ? {} : { inFull }) };
}

/** What is told of remote data that cannot be had. */
export function unreachable(source: DataSource, thrown: unknown): Required<Pick<ReadSummary, 'summary' | 'error'>> {
  const error = toOctomilError(thrown, 'data_unreadable');
  const { code, reason } = outwardProblem(error);
  return { summary: { rowCount: 0, format: formatOf(source), digest: '', problem: `[${code}] ${reason}` }, error };
}
