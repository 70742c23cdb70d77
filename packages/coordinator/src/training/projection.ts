import { createHash } from 'node:crypto';

/** Largest matrix that is computed: numbers. */
export const MAX_PROJECTION_CELLS = 2_000_000;

/**
 * Projects features by the hash of their names, so that sites that never met agree on it. With `h` the first 8 bytes
 * (big-endian) of SHA-256 of a feature's name, its row is 1 in column `h mod dim` and, beyond 10 columns, 0.5 in column
 * `(h >> 8) mod dim`. Every column is then scaled to length 1. The published clients did the same with MD5 before they
 * asked the server.
 *
 * @returns one row of `dim` numbers for each feature
 */
export function projectionMatrix(features: readonly string[], dim: number): number[][] {
  const rows = features.map((name) => {
    const row = Array.from<number>({ length: dim }).fill(0);
    const hash = createHash('sha256').update(name, 'utf8').digest().readBigUInt64BE(0);
    add(row, Number(hash % BigInt(dim)), 1);
    if (dim > 10) add(row, Number((hash >> 8n) % BigInt(dim)), 0.5);
    return row;
  });
  for (let column = 0; column < dim; column++) {
    const norm = Math.sqrt(rows.reduce((sum, row) => sum + (row[column] ?? 0) ** 2, 0));
    if (norm === 0) continue;
    for (const row of rows) row[column] = (row[column] ?? 0) / norm;
  }
  return rows;
}

function add(row: number[], column: number, value: number): void {
  row[column] = (row[column] ?? 0) + value;
}
