// Child process: reads each source once and answers what the coordinator may know of it. Ends with its parent.
import { type DataSource, digestOf, formatOf, openTable, pathsOf } from '@octomil/shared/data';
import { toOctomilError } from '@octomil/shared/errors';
import type { SummaryAnswer } from './summary.js';
import { withoutFolders } from './without-folders.js';

async function summarize(source: DataSource): Promise<SummaryAnswer> {
  const format = formatOf(source);
  try {
    const reader = await openTable(source);
    try {
      const rows = await reader.countRows();
      return { rowCount: Math.floor(rows / 10) * 10, format, digest: await digestOf(source), problem: '' };
    } finally {
      reader.close();
    }
  } catch (thrown) {
    const error = toOctomilError(thrown, 'data_unreadable');
    const inFull = `[${error.code}] ${error.reason.split('\n')[0]}`;
    return { rowCount: 0, format, digest: '', problem: withoutFolders(inFull, pathsOf(source)), inFull };
  }
}

process.once('message', (sources: readonly DataSource[]) => {
  void (async () => {
    const summaries: SummaryAnswer[] = [];
    for (const source of sources) summaries.push(await summarize(source));
    process.send?.(summaries, () => process.disconnect());
  })();
});
process.once('disconnect', () => process.exit(0));
