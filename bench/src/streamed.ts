import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodedWidth, type FeatureSpec, parseTargetRule, sealFeatureSpec } from '@octomil/shared/features';
import { initialWeights, parseArchitecture } from '@octomil/shared/models';
import { encodeWeights } from '@octomil/shared/tensors';
import { parseLocalOptions, type TfjsTrainTask, TrainerSupervisor } from '@octomil/shared/training';
import { processMemoryMiB } from './process-memory.js';
import type { BenchmarkResult, ResultValue } from './result.js';

const COLUMNS = 30;
const MIB = 1_048_576;
/** A CSV of these numbers takes about this much for a row. */
const CSV_BYTES_PER_ROW = 403;
/** The table that fits into memory has this part of the rows. */
const SMALL_RATIO = 0.1;

export interface StreamedOptions {
  readonly csvMb: number;
  readonly limitMib: number;
  readonly steps: number;
  readonly batchSize: number;
}

interface Training {
  readonly peakRssMiB: number;
  /** Reading, encoding, evaluating and training. */
  readonly seconds: number;
  /** From the first step to the last, in a second round, which finds the rows encoded. */
  readonly stepsSeconds: number;
  readonly digest: string;
}

/**
 * Trains in the agent's trainer process under a memory limit on a table that is larger, as CSV and as Parquet, and on a
 * table that fits: peak memory, and how much longer a step and the reading of a row take.
 */
export async function streamedBench(options: StreamedOptions): Promise<BenchmarkResult> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  const rows = Math.ceil((options.csvMb * 1e6) / CSV_BYTES_PER_ROW);
  const smallRows = Math.ceil(rows * SMALL_RATIO);
  try {
    const result: Record<string, ResultValue> = { rows };
    const digests = new Set<string>();
    for (const format of ['csv', 'parquet'] as const) {
      const large = await writeTable(folder, format, rows);
      result[`${format}Mb`] = Math.round((await stat(large)).size / 1e6);
      const streamed = await train(folder, large, options);
      await rm(large);
      const small = await writeTable(folder, format, smallRows);
      const inMemory = await train(folder, small, options);
      await rm(small);
      digests.add(streamed.digest);
      result[`${format}PeakRssMiB`] = Math.round(streamed.peakRssMiB);
      result[`${format}Seconds`] = streamed.seconds;
      result[`${format}StepsSeconds`] = streamed.stepsSeconds;
      result[`${format}InMemoryPeakRssMiB`] = Math.round(inMemory.peakRssMiB);
      result[`${format}InMemorySeconds`] = inMemory.seconds;
      result[`${format}InMemoryStepsSeconds`] = inMemory.stepsSeconds;
      result[`${format}StepRatio`] = streamed.stepsSeconds / inMemory.stepsSeconds;
      result[`${format}SecondsPerRowRatio`] = (streamed.seconds / inMemory.seconds) * SMALL_RATIO;
    }
    return { ...result, sameWeights: digests.size === 1 };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function train(folder: string, path: string, options: StreamedOptions): Promise<Training> {
  const featureSpec = specOfNumbers();
  const architecture = parseArchitecture({ name: 'mlp', hidden: [64, 32] });
  const basePath = join(folder, 'base.safetensors');
  await writeFile(basePath, encodeWeights(initialWeights(architecture, encodedWidth(featureSpec), 3)));
  const task: TfjsTrainTask = {
    kind: 'train',
    trainer: 'tfjs',
    architecture,
    featureSpec,
    source: { path },
    basePath,
    outputPath: join(folder, 'update.safetensors'),
    updateFormat: 'weights',
    options: parseLocalOptions({ epochs: 1_000, batchSize: options.batchSize, maxSteps: options.steps }),
    holdout: { salt: 'bench', shareRatio: 0.1 },
  };
  const supervisor = new TrainerSupervisor({
    memoryLimitBytes: options.limitMib * MIB,
    temporaryFolder: join(folder, 'trainer'),
  });
  try {
    const started = performance.now();
    const first = await supervisor.run(task);
    const seconds = (performance.now() - started) / 1_000;
    const times: number[] = [];
    const second = await supervisor.run(task, { onProgress: () => times.push(performance.now()) });
    if (first.steps !== options.steps || second.update.sha256 !== first.update.sha256) {
      throw new TypeError(`${first.steps} steps, ${first.update.sha256} and then ${second.update.sha256}`);
    }
    return {
      seconds,
      stepsSeconds: ((times.at(-1) ?? 0) - (times[0] ?? 0)) / 1_000,
      peakRssMiB: processMemoryMiB(supervisor.pid ?? 0, 'VmHWM'),
      digest: first.update.sha256,
    };
  } finally {
    await supervisor.stop();
  }
}

/** Doubles of ten decimals; whether y is 1 follows from the first two. */
async function writeTable(folder: string, format: 'csv' | 'parquet', rows: number): Promise<string> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const instance = await DuckDBInstance.create(':memory:', { threads: '1' });
  const connection = await instance.connect();
  await connection.run('SELECT setseed(0.5)');
  const cells = Array.from({ length: COLUMNS }, (_, i) => `round(random() * 10 - 5, 10) AS c${i}`).join(', ');
  const path = join(folder, `table.${format}`);
  const how = format === 'csv' ? 'FORMAT csv, HEADER' : 'FORMAT parquet, COMPRESSION snappy';
  await connection.run(
    `COPY (SELECT *, (c0 + c1 > 0)::INTEGER AS y FROM (SELECT ${cells} FROM range(${rows}))) TO '${path}' (${how})`,
  );
  connection.closeSync();
  instance.closeSync();
  return path;
}

function specOfNumbers(): FeatureSpec {
  return sealFeatureSpec({
    formatVersion: 1,
    layout: 'table',
    columns: Array.from({ length: COLUMNS }, (_, i) => ({
      kind: 'numeric' as const,
      name: `c${i}`,
      mean: 0,
      deviation: 2.9,
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
