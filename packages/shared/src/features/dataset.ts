import type { SiteDrift } from './site-drift.js';

/** Encoded rows. Their targets are in memory; where the inputs are is the data set's own affair. */
export interface Dataset {
  readonly rows: number;
  /** Inputs per row. */
  readonly width: number;
  /** One number per row: 0 or 1, the class index, or the scaled number. */
  readonly y: Float32Array;
  /** The inputs of these rows in the order asked: rows.length × width, the caller's own. */
  read(rows: Uint32Array): Float32Array | Promise<Float32Array>;
  /** The inputs of the rows from `start` up to, but not including, `end`. Not to be written to: may be the data themselves. */
  readRange(start: number, end: number): Float32Array | Promise<Float32Array>;
  /** Frees what the data set holds outside of this process's heap. Safe to repeat. */
  close(): Promise<void>;
}

/** A data set whose inputs are in memory. */
export class MemoryDataset implements Dataset {
  readonly rows: number;
  readonly width: number;
  /** rows × width, row-major. */
  readonly x: Float32Array;
  readonly y: Float32Array;

  constructor(width: number, x: Float32Array, y: Float32Array) {
    this.rows = y.length;
    this.width = width;
    this.x = x;
    this.y = y;
  }

  read(rows: Uint32Array): Float32Array {
    const { width, x } = this;
    const inputs = new Float32Array(rows.length * width);
    rows.forEach((row, index) => {
      inputs.set(x.subarray(row * width, (row + 1) * width), index * width);
    });
    return inputs;
  }

  readRange(start: number, end: number): Float32Array {
    return this.x.subarray(start * this.width, end * this.width);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Which rows are kept from training, by a salted hash: the same rows each time, whatever their order in the file. */
export interface HoldoutRule {
  readonly salt: string;
  /** 0 to 1: the share of rows (or entities) held out. */
  readonly shareRatio: number;
  /** All rows of one entity (a patient) land on the same side. Default: the row's whole content decides. */
  readonly entityColumn?: string;
}

export interface LoadedDataset {
  readonly train: Dataset;
  readonly heldOut: Dataset;
  /** Rows without a target, or with one that is no class of the spec. */
  readonly droppedRows: number;
  /** How far the rows of the table, all or a part spread over it, are from what the spec was made of. */
  readonly drift: SiteDrift;
}
