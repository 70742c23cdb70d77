import { access, constants, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';

/**
 * Checks that a file can be put there, before the work whose result it is to hold.
 *
 * @throws OctomilError `invalid_input` where its folder is missing or closed to us, or it is a folder itself
 */
export async function requirePlaceFor(path: string): Promise<void> {
  const target = resolve(path);
  const folder = dirname(target);
  const problem = (await stat(target).catch(() => undefined))?.isDirectory()
    ? 'it is a folder; name a file in it'
    : await access(folder, constants.W_OK | constants.X_OK).then(
        () => undefined,
        (error: unknown) => `its folder cannot be written to (${(error as NodeJS.ErrnoException).code})`,
      );
  if (problem !== undefined) throw new OctomilError('invalid_input', `${path} cannot be written: ${problem}`);
}

/**
 * Writes a file whole or not at all.
 *
 * @param mode permissions, less what the process masks
 * @returns its absolute path
 * @throws OctomilError `insufficient_storage` when the disk is full, `invalid_input` when it cannot be written
 */
export async function writeAtomically(path: string, content: Uint8Array | string, mode = 0o666): Promise<string> {
  const target = resolve(path);
  const partial = join(dirname(target), `.${basename(target)}.${process.pid}.partial`);
  try {
    await writeFile(partial, content, { mode });
    await rename(partial, target);
  } catch (error) {
    await rm(partial, { force: true });
    throw toOctomilError(error, 'invalid_input');
  }
  return target;
}
