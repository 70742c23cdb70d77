import { readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Journal } from './journal.js';

/** Removes the updates that no upload waits for: half-made ones, and those of an agent that was killed after the verdict. */
export async function removeStrayUpdates(folder: string, journal: Pick<Journal, 'pendingUploads'>): Promise<void> {
  const wanted = new Set(journal.pendingUploads().map(({ path }) => basename(path)));
  for (const name of await readdir(folder)) {
    if (!wanted.has(name)) await rm(join(folder, name), { recursive: true, force: true });
  }
}
