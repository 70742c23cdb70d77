import { read } from 'node:fs';
import { OctomilError } from '@octomil/shared/errors';

/** One piece of one file. */
export interface ReadRequest {
  /** Opens the file, or hands out the descriptor that is open already. */
  readonly file: FileSource;
  /** Bytes before the piece. */
  readonly position: number;
  /** Float32 values. */
  readonly length: number;
}

export interface FileSource {
  readonly path: string;
  /** Runs `use` with an open descriptor. */
  withDescriptor<T>(use: (descriptor: number) => Promise<T>): Promise<T>;
}

export interface FilledBuffer {
  readonly values: Float32Array<ArrayBuffer>;
  /** Hands the buffer back: the next read begins. */
  release(): void;
}

/**
 * Reads a sequence of pieces in order into a fixed set of buffers, always as far ahead as there are free buffers. Reading
 * happens on other threads, so it runs while the caller computes.
 */
export class ReadAhead {
  readonly #requests: Iterator<ReadRequest>;
  readonly #pending: Promise<FilledBuffer>[] = [];

  constructor(requests: Iterable<ReadRequest>, buffers: readonly Float32Array<ArrayBuffer>[]) {
    this.#requests = requests[Symbol.iterator]();
    for (const buffer of buffers) this.#begin(buffer);
  }

  /**
   * The next piece. Callers hold fewer buffers than there are, or wait for ever.
   *
   * @throws `corrupt_file` when a file is shorter than its header said; errors of the file system as they are
   */
  async take(): Promise<FilledBuffer> {
    const next = this.#pending.shift();
    if (next === undefined) throw new OctomilError('internal', 'more pieces were taken than were asked for');
    return await next;
  }

  /** Waits for reads under way; buffers and files are free afterwards. */
  async drain(): Promise<void> {
    await Promise.allSettled(this.#pending);
  }

  #begin(buffer: Float32Array<ArrayBuffer>): void {
    const { value: request, done } = this.#requests.next();
    if (done === true) return;
    const values = buffer.subarray(0, request.length);
    const filled = request.file
      .withDescriptor((descriptor) => fill(descriptor, values, request))
      .then(() => ({ values, release: () => this.#begin(buffer) }));
    // Whoever takes it gets the error; until then it is nobody's unhandled one.
    filled.catch(() => undefined);
    this.#pending.push(filled);
  }
}

async function fill(descriptor: number, values: Float32Array<ArrayBuffer>, request: ReadRequest): Promise<void> {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  for (let filled = 0; filled < bytes.length; ) {
    const count = await readPiece(descriptor, bytes, filled, request.position + filled);
    if (count === 0) {
      throw new OctomilError(
        'corrupt_file',
        `${request.file.path} ends at byte ${request.position + filled}, ${bytes.length - filled} more were expected`,
      );
    }
    filled += count;
  }
}

function readPiece(descriptor: number, bytes: Uint8Array, offset: number, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(descriptor, bytes, offset, bytes.length - offset, position, (error, count) => {
      if (error === null) resolve(count);
      else reject(error);
    });
  });
}
