import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Bounded, so that a slow disk does not take all of the process's threads. */
const STATS_AT_ONCE = 64;

/**
 * Changes when files of a folder do: names, sizes, times. Waits for the disk without keeping others from running, since
 * a folder of pictures may have a million.
 */
export async function folderMark(folder: string): Promise<string> {
  const entries = (await readdir(folder, { recursive: true, withFileTypes: true })).filter(
    (entry) => !entry.isDirectory(),
  );
  const hash = createHash('sha256');
  for (let start = 0; start < entries.length; start += STATS_AT_ONCE) {
    const marks = entries.slice(start, start + STATS_AT_ONCE).map(async ({ parentPath, name }) => {
      const path = join(parentPath, name);
      // One that is gone, or a link to nowhere, is a mark as well.
      const found = await stat(path).catch(() => undefined);
      return [path, found?.size, found?.mtimeMs];
    });
    hash.update(JSON.stringify(await Promise.all(marks)));
  }
  return hash.digest('hex');
}
