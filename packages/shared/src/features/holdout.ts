import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { HoldoutRule } from './dataset.js';

/**
 * Decides which rows are held out: MurmurHash3 (x86, 32 bit, Austin Appleby) over the row's cells as doubles, seeded
 * by SHA-256 of the salt. A cryptographic hash of each row would take longer than reading the file, and a site that
 * wanted to cheat could choose its rows anyway.
 *
 * Equal rows fall on the same side, whatever their place in the file and whether it is CSV or Parquet.
 */
export class RowSplitter {
  readonly #seed: number;
  readonly #limit: number;
  #hash = new Int32Array(0);
  #words = 0;

  /** @throws `invalid_input` where the share is not from 0 up to, but not including, 1. */
  constructor(rule: HoldoutRule) {
    if (!(rule.shareRatio >= 0 && rule.shareRatio < 1)) {
      throw new OctomilError(
        'invalid_input',
        `the held-out share is ${rule.shareRatio}; it must be 0 or more and below 1`,
      );
    }
    this.#seed = createHash('sha256').update(rule.salt).digest().readInt32LE(0);
    this.#limit = rule.shareRatio * 2 ** 32;
  }

  /** Begins a run of rows. */
  start(rows: number): void {
    if (this.#hash.length < rows) this.#hash = new Int32Array(rows);
    this.#hash.fill(this.#seed);
    this.#words = 0;
  }

  /** Takes in the next column; columns must come in the same order for each run. */
  add(cells: Float64Array, rows: number): void {
    const hash = this.#hash;
    const value = new Float64Array(1);
    const words = new Int32Array(value.buffer);
    for (let row = 0; row < rows; row++) {
      const cell = cells[row] ?? Number.NaN;
      // One bit pattern each for 0 and -0, and for every NaN.
      value[0] = Number.isNaN(cell) ? Number.NaN : cell + 0;
      hash[row] = mix(mix(hash[row] ?? 0, words[0] ?? 0), words[1] ?? 0);
    }
    this.#words += 2;
  }

  isHeldOut(row: number): boolean {
    let hash = (this.#hash[row] ?? 0) ^ (this.#words * 4);
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) >>> 0 < this.#limit;
  }
}

function mix(hash: number, word: number): number {
  const scrambled = Math.imul(word, 0xcc9e2d51);
  const block = Math.imul((scrambled << 15) | (scrambled >>> 17), 0x1b873593);
  const mixed = hash ^ block;
  return (Math.imul((mixed << 13) | (mixed >>> 19), 5) + 0xe6546b64) | 0;
}
