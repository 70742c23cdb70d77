import { randomUUID } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';

/**
 * Writes a file so that a reader, also one after a crash, sees the old content or the new one, never a part.
 *
 * @param durable waits for the disk as well: for what must survive a power cut
 */
export async function writeAtomically(
  path: string,
  content: string | Uint8Array,
  { mode = 0o600, durable = false }: { mode?: number; durable?: boolean } = {},
): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  const file = await open(temporary, 'wx', mode);
  try {
    await file.writeFile(content);
    if (durable) await file.sync();
  } catch (error) {
    await file.close();
    await rm(temporary, { force: true });
    throw error;
  }
  await file.close();
  await rename(temporary, path);
}
