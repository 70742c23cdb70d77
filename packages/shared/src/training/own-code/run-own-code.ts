import { copyFile, lstat, mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { DataSource, MemoryBudget } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { type Dataset, encodedWidth, MINIMUM_ROWS } from '@octomil/shared/features';
import { entryPoint } from '@octomil/shared/runtime';
import type { EvaluationMetrics } from '../metrics.js';
import type { OwnCodeTrainTask, TrainResult } from '../task.js';
import type { RunOptions } from '../trainer.js';
import { takeUpdate } from './checked-update.js';
import { notAllowed, readCode } from './code-files.js';
import { columnNames, writeRowsAsParquet, writeRowsAsTensors } from './encoded-rows.js';
import { FOLDER_VARIABLE, removeRunFolder } from './left-runs.js';
import { findProgram, processorsOf } from './limiting-prefix.js';
import type { OwnCode } from './own-code.js';
import { runWatched } from './watched-command.js';

const MAX_METRICS_BYTES = 1_048_576;

/**
 * Trains with the site's own code in a fresh folder, which is gone afterwards:
 *
 * - before: `base.safetensors`, `config.json`, and the rows as `train.parquet` or `train.safetensors` unless the code reads
 *   the site's file; `code/`, `home/` and `tmp/`;
 * - after: `update.safetensors` and `metrics.json` (`sample_count`, `train_loss`, `update_format`).
 *
 * @param rows encoded, without the held-out ones
 * @throws OctomilError `policy_denied` when the code is not the one that the policy allows, `training_failed`, `cancelled`
 */
export async function runOwnCode(
  task: OwnCodeTrainTask,
  rows: Dataset,
  evaluation: EvaluationMetrics | null,
  { signal, onProgress, memory }: RunOptions & { readonly memory: MemoryBudget },
): Promise<TrainResult> {
  const { code } = task;
  await mkdir(task.workPath, { recursive: true, mode: 0o700 });
  const folder = await mkdtemp(join(task.workPath, 'run-'));
  try {
    const listing = await readCode(code, join(folder, 'code'));
    if (listing.sha256 !== task.allowedSha256) throw notAllowed(code.name, listing.sha256);
    for (const name of ['home', 'tmp']) await mkdir(join(folder, name));
    // A copy: the base is shared with other rounds, and this code may do to its folder what it likes.
    await copyFile(task.basePath, join(folder, 'base.safetensors'));
    if (code.data === 'parquet') await writeRowsAsParquet(join(folder, 'train.parquet'), folder, rows, memory);
    if (code.data === 'safetensors' || code.module !== undefined) {
      await writeRowsAsTensors(join(folder, 'train.safetensors'), rows);
    }
    await writeFile(join(folder, 'config.json'), JSON.stringify(configOf(task, rows), null, 2));
    let steps = 0;
    await runWatched({
      name: code.name,
      ...programOf(code, listing.arguments),
      folder,
      environment: environmentOf(code, folder),
      limits: code.limits,
      signal,
      onLine: (line) => {
        const progress = progressOf(line);
        if (progress === undefined) return;
        steps = Math.max(steps, progress.step);
        onProgress?.(progress);
      },
    });
    const metrics = await readMetrics(code.name, join(folder, 'metrics.json'));
    const sampleCount = sampleCountOf(code, metrics, rows);
    const update = await takeUpdate({
      name: code.name,
      path: join(folder, 'update.safetensors'),
      basePath: task.basePath,
      given: updateFormatOf(code.name, metrics, task.updateFormat),
      wanted: task.updateFormat,
      outputPath: task.outputPath,
    });
    const loss = metrics['train_loss'];
    const trainLoss = typeof loss === 'number' && Number.isFinite(loss) ? loss : null;
    return { sampleCount, trainLoss, evaluation, update, backend: `own:${code.name}`, steps };
  } finally {
    await removeRunFolder(folder).catch(() => undefined);
  }
}

function configOf(task: OwnCodeTrainTask, rows: Dataset): Record<string, unknown> {
  const { code, featureSpec, options, architecture } = task;
  const inputs = featureSpec.columns.flatMap((column) =>
    Array.from({ length: encodedWidth({ columns: [column] }) }, (_, index) => ({ feature: column.name, index })),
  );
  return {
    format_version: 1,
    trainer: code.name,
    round: task.roundNumber,
    seed: options.seed,
    update_format: task.updateFormat,
    local: {
      epochs: options.epochs,
      batch_size: options.batchSize,
      learning_rate: options.learningRate,
      optimizer: options.optimizer,
      proximal_mu: options.proximalMu,
      max_steps: options.maxSteps,
      class_weights: options.classWeights,
      early_stop: options.earlyStop && {
        patience: options.earlyStop.patience,
        min_delta: options.earlyStop.minDelta,
      },
    },
    architecture,
    feature_spec: featureSpec,
    feature_spec_hash: featureSpec.hash,
    target: featureSpec.target,
    ...(code.data === 'path'
      ? { ...dataPaths(task.source), holdout: task.holdout }
      : { data: `train.${code.data}`, rows: rows.rows, width: rows.width, columns: columnNames(rows.width), inputs }),
  };
}

/** Of remote data the temporary copies; where there are several files, all of them as well. */
function dataPaths({ path, files }: DataSource): {
  readonly data_path: string;
  readonly data_paths?: readonly string[];
} {
  const [first = path, ...others] = files ?? [];
  return { data_path: first, ...(files === undefined || others.length === 0 ? {} : { data_paths: files }) };
}

function programOf(code: OwnCode, args: readonly string[]): { program: string; arguments: readonly string[] } {
  if (code.module !== undefined) {
    const entry = entryPoint(import.meta.url, 'module-runner');
    const heap = `--max-old-space-size=${code.limits.memoryMb}`;
    return { program: process.execPath, arguments: [...entry.execArgv, heap, entry.path, ...args] };
  }
  const [word = '', ...others] = args;
  const program = findProgram(word);
  if (program === undefined) {
    throw new OctomilError(
      'training_failed',
      `the site's own code for trainer "${code.name}" needs ${basename(word)}, which is not on this machine`,
    );
  }
  return { program, arguments: others };
}

function environmentOf(code: OwnCode, folder: string): Record<string, string> {
  const { cpuPercent } = code.limits;
  const passed = code.environment.flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return {
    PATH: process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin',
    LANG: 'C.UTF-8',
    HOME: join(folder, 'home'),
    TMPDIR: join(folder, 'tmp'),
    [FOLDER_VARIABLE]: folder,
    // Bytecode beside the code is not part of its digest, so it is neither read nor written there.
    PYTHONPYCACHEPREFIX: join(folder, 'tmp', 'pycache'),
    PYTHONUNBUFFERED: '1',
    ...(cpuPercent === undefined ? {} : { OMP_NUM_THREADS: String(processorsOf(cpuPercent)) }),
    ...Object.fromEntries(passed),
  };
}

function progressOf(line: string) {
  if (!line.trimStart().startsWith('{')) return undefined;
  let told: Readonly<Record<string, unknown>>;
  try {
    told = JSON.parse(line) as Readonly<Record<string, unknown>>;
  } catch {
    return undefined;
  }
  const { step, total_steps: total, epoch, loss } = told;
  if (!isCount(step) || !isCount(total)) return undefined;
  return {
    step: Math.min(step, total),
    totalSteps: total,
    epoch: isCount(epoch) ? epoch : 1,
    loss: typeof loss === 'number' ? loss : Number.NaN,
  };
}

const isCount = (value: unknown): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;

async function readMetrics(name: string, path: string): Promise<Readonly<Record<string, unknown>>> {
  const found = await lstat(path).catch(() => undefined);
  if (found?.isFile() !== true) throw wrong(name, 'wrote no file metrics.json');
  if (found.size > MAX_METRICS_BYTES) throw wrong(name, `wrote a metrics.json of more than ${MAX_METRICS_BYTES} bytes`);
  try {
    const parsed: unknown = JSON.parse(await readFile(path, 'utf8'));
    if (typeof parsed === 'object' && parsed !== null) return parsed as Readonly<Record<string, unknown>>;
  } catch (cause) {
    throw wrong(name, 'wrote a metrics.json that is not JSON', cause);
  }
  throw wrong(name, 'wrote a metrics.json that is not a JSON object');
}

/** It weighs the update, so it may not be more than the rows that were handed over. */
function sampleCountOf(code: OwnCode, metrics: Readonly<Record<string, unknown>>, rows: Dataset): number {
  const count = metrics['sample_count'];
  if (!isCount(count))
    throw wrong(code.name, 'wrote a metrics.json without sample_count, the number of rows trained on');
  if (code.data !== 'path' && count > rows.rows) {
    throw wrong(code.name, 'says in metrics.json that it trained on more rows than it was given');
  }
  if (count < MINIMUM_ROWS) {
    throw new OctomilError(
      'too_few_rows',
      `the site's own code for trainer "${code.name}" trained on fewer than ${MINIMUM_ROWS} rows; a site takes part with at least ${MINIMUM_ROWS}`,
      { details: { limit: MINIMUM_ROWS } },
    );
  }
  return count;
}

function updateFormatOf(
  name: string,
  metrics: Readonly<Record<string, unknown>>,
  asked: 'weights' | 'delta',
): 'weights' | 'delta' {
  const format = metrics['update_format'] ?? asked;
  if (format === 'weights' || format === 'delta') return format;
  throw wrong(name, 'wrote a metrics.json whose update_format is neither weights nor delta');
}

function wrong(name: string, what: string, cause?: unknown): OctomilError {
  return new OctomilError('training_failed', `the site's own code for trainer "${name}" ${what}`, { cause });
}
