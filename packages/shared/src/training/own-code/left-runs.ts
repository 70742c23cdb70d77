import { chmod, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { killCarrying } from './process-tree.js';

/** Names the run's folder to its code, and so to whoever looks for what is left of it. */
export const FOLDER_VARIABLE = 'OCTOMIL_FOLDER';

/**
 * Ends and removes the runs under a folder whose process was killed before it could: their folders hold rows, and what the
 * code started may still work on them. None may be going on. Ending them needs Linux: elsewhere nothing tells which they are.
 */
export async function removeLeftRuns(workPath: string): Promise<void> {
  for (const name of await readdir(workPath).catch(() => [])) {
    const folder = join(workPath, name);
    await killCarrying(FOLDER_VARIABLE, folder);
    await removeRunFolder(folder);
  }
  await rm(workPath, { recursive: true, force: true });
}

/** Removes a run's folder, also where the code left folders in it that may not be written, such as Go's module cache. */
export async function removeRunFolder(folder: string): Promise<void> {
  const remove = () => rm(folder, { recursive: true, force: true, maxRetries: 3 });
  await remove().catch(async () => {
    await makeWritable(folder);
    await remove();
  });
}

/** Folders alone, which links are not: what they point to is somebody else's. */
async function makeWritable(folder: string): Promise<void> {
  await chmod(folder, 0o700);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await makeWritable(join(folder, entry.name));
  }
}
