import { OctomilError } from '@octomil/shared/errors';
import type { ColumnEncoder } from './column-encoder.js';
import { type Dataset, MemoryDataset } from './dataset.js';
import { FileDataset } from './file-dataset.js';
import { RowFile } from './row-file.js';

/** Up to this share of a buffer may be unused without being cut off, which takes a copy. Unused pages take no memory. */
const MAX_UNUSED_RATIO = 0.1;

/** Rows on their way to the file are gathered to this many bytes. */
const BLOCK_BYTES = 1_048_576;

/** Memory that a row needs even when its inputs are in the file: its target, while that array grows, and its place in the shuffled order. */
const BYTES_PER_SPILLED_ROW = 12;

export interface RowBufferOptions {
  /** Inputs per row. */
  readonly width: number;
  /** Of the table, for messages. */
  readonly path: string;
  /** Only a guess; 0 where nothing is known. */
  readonly expectedRows: number;
  /** Inputs in memory; beyond, they go to a file. */
  readonly memoryBytes: number;
  /** Of rows in the file, what stays in memory. */
  readonly targetBytes: number;
  /** Where that file is. */
  readonly folder: string | undefined;
}

/**
 * Encoded rows; within a chunk, rows are picked first and then filled column by column. They are in memory, which grows by
 * doubling, until they take more than they may: then they go to a file in blocks.
 */
export class RowBuffer {
  readonly #options: RowBufferOptions;
  readonly #spillsAtOnce: boolean;
  /** The rows from `#filed` on. Zero beyond `#rows`. */
  #x: Float32Array<ArrayBuffer>;
  #y: Float32Array<ArrayBuffer>;
  #picked = new Uint32Array(0);
  #rows = 0;
  #count = 0;
  #file: RowFile | undefined;
  /** Rows in the file. */
  #filed = 0;

  constructor(options: RowBufferOptions) {
    const { width, expectedRows, memoryBytes, targetBytes } = options;
    this.#options = options;
    this.#spillsAtOnce = expectedRows * width * 4 > memoryBytes;
    this.#x = new Float32Array(this.#spillsAtOnce ? 0 : expectedRows * width);
    this.#y = new Float32Array(Math.min(expectedRows, Math.floor(targetBytes / BYTES_PER_SPILLED_ROW)));
  }

  /** @throws OctomilError `insufficient_storage`; `insufficient_memory` where there are too many rows even for a file */
  async begin(chunkRows: number): Promise<void> {
    this.#count = 0;
    if (this.#picked.length < chunkRows) this.#picked = new Uint32Array(chunkRows);
    const rows = this.#rows + chunkRows;
    if (rows > this.#y.length) this.#y = grown(this.#y, Math.max(rows, this.#y.length * 2));
    const { width, memoryBytes } = this.#options;
    const needed = (rows - this.#filed) * width;
    if (needed <= this.#x.length) return;
    const larger = Math.max(needed, this.#x.length * 2);
    if (this.#file === undefined && !this.#spillsAtOnce && larger * 4 <= memoryBytes) {
      this.#x = grown(this.#x, larger);
      return;
    }
    await this.#spill();
    const block = Math.max(chunkRows * width, BLOCK_BYTES / 4);
    if (this.#x.length !== block) this.#x = new Float32Array(block);
  }

  pick(row: number, y: number): void {
    this.#picked[this.#count] = row;
    this.#y[this.#rows + this.#count] = y;
    this.#count++;
  }

  encode(encoder: ColumnEncoder, cells: Float64Array, offset: number): boolean {
    const { width } = this.#options;
    const at = (this.#rows - this.#filed) * width + offset;
    return encoder.encode(cells, this.#picked, this.#count, this.#x, at, width);
  }

  end(): void {
    this.#rows += this.#count;
  }

  /** @throws OctomilError as `begin` */
  async take(): Promise<Dataset> {
    const { width } = this.#options;
    const y = cut(this.#y, this.#rows);
    if (this.#file === undefined) return new MemoryDataset(width, cut(this.#x, this.#rows * width), y);
    await this.#spill();
    this.#x = new Float32Array(0);
    return new FileDataset(width, this.#file, y);
  }

  /** Gives up what was read so far. */
  discard(): void {
    this.#file?.close();
  }

  async #spill(): Promise<void> {
    const { width, folder, targetBytes, expectedRows, path } = this.#options;
    if (this.#file === undefined) {
      this.#file = new RowFile(folder);
      this.#file.expect(Math.max(expectedRows, this.#rows) * width * 4);
    }
    if (this.#rows * BYTES_PER_SPILLED_ROW > targetBytes) {
      throw new OctomilError(
        'insufficient_memory',
        `${path} has more than ${this.#rows} rows: their targets alone take ${this.#rows * BYTES_PER_SPILLED_ROW} bytes while training, and they may take ${targetBytes}; allow more memory, or train on fewer rows`,
      );
    }
    const filled = this.#x.subarray(0, (this.#rows - this.#filed) * width);
    await this.#file.append(new Uint8Array(filled.buffer, filled.byteOffset, filled.byteLength));
    filled.fill(0);
    this.#filed = this.#rows;
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
