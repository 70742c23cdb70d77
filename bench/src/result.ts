import { cpus } from 'node:os';

export type ResultValue = number | string | boolean | null;
export type BenchmarkResult = Readonly<Record<string, ResultValue>>;

/** The JSON line that programs read, then the same for people. */
export function printResult(name: string, options: Readonly<Record<string, number>>, result: BenchmarkResult): void {
  const machine = `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, Node ${process.version}`;
  const date = new Date().toISOString().slice(0, 10);
  const fields: Record<string, ResultValue> = { ...options, ...result, machine, date };
  console.log(JSON.stringify({ benchmark: name, ...fields }));
  for (const [field, value] of Object.entries(fields)) {
    const shown = typeof value === 'number' ? Number(value.toPrecision(4)) : value;
    console.log(`  ${field.padEnd(28)} ${shown}`);
  }
}

/** Nearest-rank percentile. `share` in (0, 1]. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}
