import { readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import type { BufferPool } from './file-pump.js';

/** Files up to this size are worth keeping whole: all devices of a round fetch the same one at the same moment. */
export const SMALL_FILE_BYTES = 4 * 1024 * 1024;

/** The last few small files in memory. Objects never change, so what was read once stays right. */
export class SmallFiles {
  readonly #maxBytes: number;
  readonly #files = new Map<string, { bytes: Promise<Buffer>; sizeBytes: number }>();
  #totalBytes = 0;

  constructor(maxBytes = 2 * SMALL_FILE_BYTES) {
    this.#maxBytes = maxBytes;
  }

  /**
   * @param sizeBytes of the file: counts for the bound, and more or fewer are `corrupt_file`
   * @throws errors of the file system as they are
   */
  read(path: string, sizeBytes: number): Promise<Buffer> {
    const known = this.#files.get(path);
    this.#forget(path);
    const entry = known ?? { bytes: readWhole(path, sizeBytes), sizeBytes };
    this.#files.set(path, entry);
    this.#totalBytes += entry.sizeBytes;
    for (const oldest of this.#files.keys()) {
      if (this.#totalBytes <= this.#maxBytes) break;
      this.#forget(oldest);
    }
    entry.bytes.catch(() => {
      if (this.#files.get(path) === entry) this.#forget(path);
    });
    return entry.bytes;
  }

  #forget(path: string): void {
    const entry = this.#files.get(path);
    if (entry === undefined) return;
    this.#files.delete(path);
    this.#totalBytes -= entry.sizeBytes;
  }
}

async function readWhole(path: string, sizeBytes: number): Promise<Buffer> {
  const bytes = await readFile(path);
  if (bytes.length === sizeBytes) return bytes;
  throw new OctomilError('corrupt_file', `the stored file has ${bytes.length} bytes, not the ${sizeBytes} expected`);
}

/** As `pumpFile`, of bytes that are in memory. */
export async function pumpBytes(
  bytes: Buffer,
  range: { start: number; end: number },
  pool: BufferPool,
  send: (chunk: Buffer, offset: number) => Promise<void>,
): Promise<void> {
  for (let position = range.start; position < range.end; position += pool.chunkBytes) {
    await send(bytes.subarray(position, Math.min(position + pool.chunkBytes, range.end)), position);
  }
}
