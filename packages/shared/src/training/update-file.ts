import { createHash, randomUUID } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { toOctomilError } from '@octomil/shared/errors';
import type { UpdateFile } from './task.js';

export interface UpdateWriter {
  /** Appends; the bytes must stay as they are until the promise resolves. */
  write(bytes: Uint8Array): Promise<void>;
}

/**
 * Writes an update beside `path`, hashing as it goes, and renames it onto `path` when it is whole: a reader never sees half
 * a file, and a failure leaves none.
 *
 * @throws OctomilError `insufficient_storage` on a full disk; what `fill` throws
 */
export async function writeUpdate(path: string, fill: (writer: UpdateWriter) => Promise<void>): Promise<UpdateFile> {
  const temporary = `${path}.${randomUUID()}.part`;
  const hash = createHash('sha256');
  let sizeBytes = 0;
  let file: FileHandle | undefined;
  try {
    file = await open(temporary, 'wx', 0o600);
    const opened = file;
    await fill({
      write: async (bytes) => {
        const written = writeAll(opened, bytes);
        hash.update(bytes);
        sizeBytes += bytes.length;
        await written;
      },
    });
    await file.close();
    await rename(temporary, path);
  } catch (error) {
    await file?.close().catch(() => undefined);
    await rm(temporary, { force: true });
    throw toOctomilError(error, 'training_failed');
  }
  return { path, sha256: hash.digest('hex'), sizeBytes };
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done);
    done += bytesWritten;
  }
}
