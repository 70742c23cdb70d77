import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { toOctomilError } from '@octomil/shared/errors';
import { BENCHMARKS, type Benchmark } from './benchmarks.js';
import { printResult } from './result.js';

/** `npm run bench -- NAME [--option value …]`: one JSON line first, a small table after. */
async function main(): Promise<number> {
  const [name, ...rest] = process.argv.slice(2);
  const benchmark: Benchmark | undefined = name === undefined ? undefined : BENCHMARKS[name];
  if (name === undefined || benchmark === undefined) {
    console.error('usage: npm run bench -- NAME [--option value …]\n');
    for (const [known, { summary, options }] of Object.entries(BENCHMARKS)) {
      const flags = Object.entries(options).map(([flag, value]) => `--${flag} ${value}`);
      console.error(`  ${known.padEnd(12)} ${summary}\n  ${''.padEnd(12)} defaults: ${flags.join(' ') || 'none'}`);
    }
    return 2;
  }
  const parsed = parseArgs({
    args: rest,
    options: Object.fromEntries(Object.keys(benchmark.options).map((flag) => [flag, { type: 'string' as const }])),
  });
  const options: Record<string, number> = { ...benchmark.options };
  for (const [flag, text] of Object.entries(parsed.values)) {
    const value = Number(text);
    if (!Number.isFinite(value) || value <= 0) {
      console.error(`--${flag} is ${String(text)}; it must be a positive number`);
      return 2;
    }
    options[flag] = value;
  }
  // Own servers for this run, so that results do not depend on what else is on the machine.
  if (benchmark.needsPostgres(options) && process.env['TEST_DATABASE_URL'] === undefined) {
    return runAgainThrough('scripts/with-stores.js');
  }
  const clouds = ['TEST_S3_URL', 'TEST_GCS_URL', 'TEST_AZURE_URL'];
  if (benchmark.needsClouds === true && !clouds.some((variable) => process.env[variable] !== undefined)) {
    if (!existsSync('node_modules/.emulators') || process.env['OCTOMIL_BENCH_NESTED'] !== undefined) {
      console.error('no cloud servers to measure against; install them: node scripts/install-emulators.js');
      return 2;
    }
    return runAgainThrough('scripts/with-clouds.js');
  }
  printResult(name, options, await benchmark.run(options));
  return 0;
}

function runAgainThrough(script: string): number {
  const { status } = spawnSync(process.execPath, [script, process.execPath, ...process.argv.slice(1)], {
    stdio: 'inherit',
    env: { ...process.env, OCTOMIL_BENCH_NESTED: '1' },
  });
  return status ?? 1;
}

main().then(
  (status) => process.exit(status),
  (thrown: unknown) => {
    const error = toOctomilError(thrown);
    console.error(error.message);
    if (error.cause !== undefined) console.error(error.cause);
    process.exit(1);
  },
);
