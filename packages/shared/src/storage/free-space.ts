import { statfs } from 'node:fs/promises';
import { OctomilError } from '../errors/index.js';

/** Left free beyond what is asked for, so that the database and the log can still be written: 64 MiB. */
const RESERVE_BYTES = 64 * 1024 * 1024;

/**
 * Refuses early what would fill the disk.
 *
 * @throws OctomilError `insufficient_storage` when fewer than `neededBytes` and a reserve of 64 MiB are free
 */
export async function requireFreeSpace(folder: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  const freeBytes = bavail * bsize;
  if (freeBytes < neededBytes + RESERVE_BYTES) {
    throw new OctomilError(
      'insufficient_storage',
      `${folder} has ${freeBytes} bytes free, ${neededBytes} are needed besides a reserve of ${RESERVE_BYTES}; free some or move the folder`,
      { details: { free_bytes: freeBytes, needed_bytes: neededBytes } },
    );
  }
}
