import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** In a folder that several processes use, an unfinished file may be a living writer's; an older one is nobody's. */
export const ABANDONED_AFTER_MS = 24 * 3_600_000;

/** Removes what lies in a folder and was last written before `beforeMs`. A folder that does not exist is empty. */
export async function removeOldEntries(folder: string, beforeMs: number): Promise<void> {
  const names = await readdir(folder).catch((error: unknown) => {
    if ((error as { code?: unknown }).code === 'ENOENT') return [];
    throw error;
  });
  for (const name of names) {
    const path = join(folder, name);
    // Gone meanwhile, when its writer lives.
    const found = await stat(path).catch(() => undefined);
    if (found !== undefined && found.mtimeMs < beforeMs) await rm(path, { recursive: true, force: true });
  }
}
