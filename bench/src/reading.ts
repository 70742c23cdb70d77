import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BenchmarkResult, ResultValue } from './result.js';

interface Reading {
  readonly rows: number;
  readonly sum: number;
  readonly wallSeconds: number;
  readonly cpuSeconds: number;
  readonly peakRssMiB: number;
}

/** Beyond this, a reader is stopped and counts as not finished. */
const LIMIT_MS = 300_000;

/**
 * Rows of numbers from Parquet (snappy, written by DuckDB) and CSV into one training tensor, beside other readers: each in
 * a process of its own, of which processor time (all threads, start-up included) and peak memory are counted. Of `runs`,
 * the one with the least processor time counts.
 */
export async function readingBench(options: {
  readonly rows: number;
  readonly columns: number;
  readonly runs: number;
}): Promise<BenchmarkResult> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  try {
    const parquet = join(folder, 'numbers.parquet');
    const csv = join(folder, 'numbers.csv');
    await writeTables(parquet, csv, options.rows, options.columns);
    const mib = async (path: string) => Math.round((await stat(path)).size / 1_048_576);
    const result: Record<string, ResultValue> = { parquetMiB: await mib(parquet), csvMiB: await mib(csv) };
    const sums = new Set<number>();
    const cases = [
      ['octomil', 'Parquet', parquet, options.runs],
      ['octomil', 'Csv', csv, options.runs],
      ['hyparquet', 'Parquet', parquet, options.runs],
      ['papaparse', 'Csv', csv, options.runs],
      ['parquetjs-lite', 'Parquet', parquet, 1],
    ] as const;
    for (const [reader, format, path, runs] of cases) {
      const name = `${reader === 'parquetjs-lite' ? 'parquetjsLite' : reader}${format}`;
      const reading = await best(reader, path, options, runs);
      if (typeof reading === 'string') {
        result[name] = reading;
        continue;
      }
      if (reading.rows !== options.rows) result[`${name}Rows`] = reading.rows;
      sums.add(Math.round(reading.sum));
      result[`${name}CpuSeconds`] = round(reading.cpuSeconds);
      result[`${name}Seconds`] = round(reading.wallSeconds);
      result[`${name}PeakRssMiB`] = Math.round(reading.peakRssMiB);
    }
    return { ...result, sumsAgree: sums.size === 1 };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const round = (value: number): number => Math.round(value * 100) / 100;

/** Doubles of ten decimals: long texts, and nothing that a dictionary makes small. */
async function writeTables(parquet: string, csv: string, rows: number, columns: number): Promise<void> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const instance = await DuckDBInstance.create(':memory:');
  const connection = await instance.connect();
  await connection.run('SELECT setseed(0.5)');
  const cells = Array.from({ length: columns }, (_, i) => `round(random() * 10 - 5, 10) AS c${i}`);
  await connection.run(
    `CREATE TABLE numbers AS SELECT ${cells.join(', ')}, (random() > 0.5)::INTEGER AS y FROM range(${rows})`,
  );
  await connection.run(`COPY numbers TO '${parquet}' (FORMAT parquet, COMPRESSION snappy)`);
  await connection.run(`COPY numbers TO '${csv}' (FORMAT csv, HEADER)`);
  connection.closeSync();
  instance.closeSync();
}

/** The reading with the least processor time, or why there is none. */
async function best(
  reader: string,
  path: string,
  { rows, columns }: { readonly rows: number; readonly columns: number },
  runs: number,
): Promise<Reading | string> {
  let found: Reading | undefined;
  for (let run = 0; run < runs; run++) {
    const reading = await readOnce([reader, path, String(columns), String(rows)]);
    if (typeof reading === 'string') return reading;
    if (found === undefined || reading.cpuSeconds < found.cpuSeconds) found = reading;
  }
  return found ?? 'not run';
}

async function readOnce(args: readonly string[]): Promise<Reading | string> {
  const entry = fileURLToPath(new URL('reading-process.js', import.meta.url));
  const child = spawn(process.execPath, ['--max-old-space-size=8192', entry, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: LIMIT_MS,
    killSignal: 'SIGKILL',
  });
  let output = '';
  let problem = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    problem += chunk.toString();
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (code === 0) return JSON.parse(output) as Reading;
  return signal === null ? `failed: ${problem.trim().split('\n').at(0) ?? ''}` : `not within ${LIMIT_MS / 1_000} s`;
}
