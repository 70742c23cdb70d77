import type { FeatureSpec } from '../feature-spec.js';
import { sealFeatureSpec } from '../spec-hash.js';
import { parseTargetRule } from '../target-rule.js';

/** Columns c0, c1, ... of numbers, and y, which is 0 or 1. Written by DuckDB; the same each time. */
export async function writeNumbers(
  path: string,
  { rows, columns }: { rows: number; columns: number },
): Promise<string> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const instance = await DuckDBInstance.create(':memory:', { threads: '1' });
  const connection = await instance.connect();
  const cells = Array.from({ length: columns }, (_, i) => `round(sin(i * ${i + 1}.7) * 2, 6) AS c${i}`);
  const y = '(sin(i * 1.7) + sin(i * 77.3) / 2 > 0)::INTEGER AS y';
  const format = path.endsWith('.parquet') ? 'FORMAT parquet' : 'FORMAT csv, HEADER';
  await connection.run(`COPY (SELECT ${cells.join(', ')}, ${y} FROM range(${rows}) t(i)) TO '${path}' (${format})`);
  connection.closeSync();
  instance.closeSync();
  return path;
}

export function specOfNumbers(columns: number): FeatureSpec {
  return sealFeatureSpec({
    formatVersion: 1,
    layout: 'table',
    columns: Array.from({ length: columns }, (_, i) => ({
      kind: 'numeric' as const,
      name: `c${i}`,
      mean: 0,
      deviation: 1,
      missingMarkers: [],
      missingIndicator: false,
    })),
    target: {
      rule: parseTargetRule('y>0'),
      output: { kind: 'binary' },
      classes: [],
      values: 'number',
      mean: 0,
      deviation: 1,
      missingMarkers: [],
    },
  });
}
