import { rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { toOctomilError } from '@octomil/shared/errors';

/**
 * Writes a file whole or not at all.
 *
 * @returns its absolute path
 * @throws OctomilError `insufficient_storage` when the disk is full, `invalid_input` when it cannot be written
 */
export async function writeAtomically(path: string, content: Uint8Array | string): Promise<string> {
  const target = resolve(path);
  const partial = join(dirname(target), `.${basename(target)}.${process.pid}.partial`);
  try {
    await writeFile(partial, content);
    await rename(partial, target);
  } catch (error) {
    await rm(partial, { force: true });
    throw toOctomilError(error, 'invalid_input');
  }
  return target;
}
