import { open } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import type { ObjectStore } from '@octomil/shared/storage';

/** Read buffers that are used again: a download then makes no garbage, which is most of what one costs. */
export class BufferPool {
  readonly chunkBytes: number;
  readonly #free: Buffer[] = [];
  readonly #maxFree: number;

  constructor(chunkBytes: number, maxFree = 16) {
    this.chunkBytes = chunkBytes;
    this.#maxFree = maxFree;
  }

  take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(this.chunkBytes);
  }

  give(buffer: Buffer): void {
    if (this.#free.length < this.#maxFree) this.#free.push(buffer);
  }
}

/**
 * Sends bytes `start` to `end` (exclusive) of a file, reading the next chunk while the last one is on its way.
 *
 * @param send must resolve only when the chunk is not needed any more: its memory is used again
 * @throws `corrupt_file` when the file ends early; what `send` throws
 */
export async function pumpFile(
  path: string,
  range: { start: number; end: number },
  pool: BufferPool,
  send: (chunk: Buffer, offset: number) => Promise<void>,
): Promise<void> {
  const file = await open(path, 'r');
  const buffers = [pool.take(), pool.take()] as const;
  let sending: Promise<void> = Promise.resolve();
  let done = false;
  try {
    let turn = 0;
    for (let position = range.start; position < range.end; ) {
      const buffer = buffers[turn % 2 === 0 ? 0 : 1];
      turn++;
      const wanted = Math.min(buffer.length, range.end - position);
      const [{ bytesRead }] = await Promise.all([file.read(buffer, 0, wanted, position), sending]);
      if (bytesRead === 0) {
        throw new OctomilError(
          'corrupt_file',
          `the stored file ends at ${position} bytes, before the ${range.end} expected`,
        );
      }
      sending = send(buffer.subarray(0, bytesRead), position);
      // Its failure is met at the next turn; without a handler in between it would end the process.
      sending.catch(() => undefined);
      position += bytesRead;
    }
    await sending;
    done = true;
  } finally {
    await file.close();
    // After a failure a chunk may still be on its way to a broken connection: its memory is left to the collector.
    if (done) for (const buffer of buffers) pool.give(buffer);
  }
}

/** As `pumpFile`, of an object wherever it lies: only what is asked for is read. */
export async function pumpObject(
  objects: ObjectStore,
  key: string,
  range: { start: number; end: number },
  send: (chunk: Buffer, offset: number) => Promise<void>,
): Promise<void> {
  let offset = range.start;
  for await (const chunk of objects.read(key, range)) {
    await send(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength), offset);
    offset += chunk.length;
  }
}
