import { OctomilError } from '@octomil/shared/errors';
import { type Dataset, MemoryDataset } from './dataset.js';
import type { ColumnEncoder } from './encode.js';

/** Up to this share of a buffer may be unused without being cut off, which takes a copy. Unused pages take no memory. */
const MAX_UNUSED_RATIO = 0.1;

/** Encoded rows that grow by doubling; within a chunk, rows are picked first and then filled column by column. */
export class RowBuffer {
  readonly #width: number;
  readonly #maxBytes: number;
  readonly #path: string;
  #x: Float32Array<ArrayBuffer>;
  #y: Float32Array<ArrayBuffer>;
  #picked = new Uint32Array(0);
  #rows = 0;
  #count = 0;

  /** `rows` is only a guess. */
  constructor(width: number, maxBytes: number, path: string, rows: number) {
    this.#width = width;
    this.#maxBytes = maxBytes;
    this.#path = path;
    const capacity = Math.min(rows, Math.floor(maxBytes / (4 * width)));
    this.#x = new Float32Array(capacity * width);
    this.#y = new Float32Array(capacity);
  }

  begin(chunkRows: number): void {
    this.#count = 0;
    if (this.#picked.length < chunkRows) this.#picked = new Uint32Array(chunkRows);
    const needed = this.#rows + chunkRows;
    if (needed <= this.#y.length) return;
    if (needed * this.#width * 4 > this.#maxBytes) {
      throw new OctomilError(
        'insufficient_memory',
        `${this.#path}: the encoded rows take more than ${this.#maxBytes} bytes (${this.#width} inputs a row); train on fewer rows or columns`,
      );
    }
    const capacity = Math.max(needed, Math.min(needed * 2, Math.floor(this.#maxBytes / (4 * this.#width))));
    this.#x = grown(this.#x, capacity * this.#width);
    this.#y = grown(this.#y, capacity);
  }

  pick(row: number, y: number): void {
    this.#picked[this.#count] = row;
    this.#y[this.#rows + this.#count] = y;
    this.#count++;
  }

  encode(encoder: ColumnEncoder, cells: Float64Array, offset: number): boolean {
    return encoder.encode(cells, this.#picked, this.#count, this.#x, this.#rows * this.#width + offset, this.#width);
  }

  end(): void {
    this.#rows += this.#count;
  }

  take(): Dataset {
    const rows = this.#rows;
    return new MemoryDataset(this.#width, cut(this.#x, rows * this.#width), cut(this.#y, rows));
  }
}

function cut(array: Float32Array<ArrayBuffer>, length: number): Float32Array<ArrayBuffer> {
  return length >= array.length * (1 - MAX_UNUSED_RATIO) ? array.subarray(0, length) : array.slice(0, length);
}

function grown(array: Float32Array<ArrayBuffer>, length: number): Float32Array<ArrayBuffer> {
  const larger = new Float32Array(length);
  larger.set(array);
  return larger;
}
