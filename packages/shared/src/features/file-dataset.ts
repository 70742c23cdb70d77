import { setImmediate } from 'node:timers/promises';
import type { Dataset } from './dataset.js';
import type { RowFile } from './row-file.js';

/** Rows with no more than this between them are read in one go: what lies between comes from the disk anyway. */
const MAX_GAP_BYTES = 4_096;
/** One read of neighbours takes no more than this and one row. */
const MAX_READ_BYTES = 1_048_576;
/** After reading for this long, others get their turn: the message that cancels among them. */
const TURN_MS = 10;

/** A data set whose inputs are in a file, in the order of the rows. Gives the very bytes that memory would. */
export class FileDataset implements Dataset {
  readonly rows: number;
  readonly width: number;
  readonly y: Float32Array;
  readonly #file: RowFile;
  /** The file's when the data set is closed, which closes it. */
  constructor(width: number, file: RowFile, y: Float32Array) {
    this.rows = y.length;
    this.width = width;
    this.y = y;
    this.#file = file;
  }

  async read(rows: Uint32Array): Promise<Float32Array> {
    const { width } = this;
    const rowBytes = 4 * width;
    const inputs = new Float32Array(rows.length * width);
    const order = Uint32Array.from(rows, (_, index) => index).sort((a, b) => (rows[a] ?? 0) - (rows[b] ?? 0));
    const rowAt = (place: number): number => rows[order[place] ?? 0] ?? 0;
    let turn = performance.now() + TURN_MS;
    for (let from = 0; from < order.length; ) {
      const first = rowAt(from);
      let to = from + 1;
      while (to < order.length && this.#isNear(first, rowAt(to - 1), rowAt(to))) to++;
      const run = new Float32Array((rowAt(to - 1) - first + 1) * width);
      this.#file.read(bytesOf(run), first * rowBytes);
      for (; from < to; from++) {
        const at = (rowAt(from) - first) * width;
        inputs.set(run.subarray(at, at + width), (order[from] ?? 0) * width);
      }
      if (performance.now() < turn) continue;
      await setImmediate();
      turn = performance.now() + TURN_MS;
    }
    return inputs;
  }

  async readRange(start: number, end: number): Promise<Float32Array> {
    const { width } = this;
    const inputs = new Float32Array((end - start) * width);
    const bytes = bytesOf(inputs);
    for (let at = 0; at < bytes.length; at += MAX_READ_BYTES) {
      if (at > 0) await setImmediate();
      this.#file.read(bytes.subarray(at, at + MAX_READ_BYTES), start * width * 4 + at);
    }
    return inputs;
  }

  close(): Promise<void> {
    this.#file.close();
    return Promise.resolve();
  }

  #isNear(first: number, last: number, next: number): boolean {
    const rowBytes = 4 * this.width;
    return (next - last - 1) * rowBytes <= MAX_GAP_BYTES && (next - first) * rowBytes <= MAX_READ_BYTES;
  }
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
