import { OctomilError } from '@octomil/shared/errors';
import { MINIMUM_ROWS, parseFeatureSpec } from '@octomil/shared/features';
import { type BuiltModel, getFlat, type Output, parseArchitecture, setFlat } from '@octomil/shared/models';
import { throwIfCancelled } from './cancellation.js';
import {
  type ControlVariates,
  controlTerm,
  nextControlVariate,
  readControlVariates,
  writeControlledUpdate,
} from './control-variates.js';
import { DatasetCache } from './dataset-cache.js';
import { echo } from './echo.js';
import { evaluate } from './evaluate.js';
import type { EvaluationMetrics } from './metrics.js';
import { PersonalPart } from './personal/train-personal.js';
import type {
  ControlVariateFiles,
  EvaluateTask,
  OwnCodeTrainTask,
  TfjsTrainTask,
  TrainerResult,
  TrainerTask,
  TrainResult,
  UpdateFile,
} from './task.js';
import { trainLocally } from './train-locally.js';
import type { RunOptions, TrainerResources } from './trainer.js';
import { writeUpdate } from './update-file.js';
import { withModel } from './with-model.js';

export interface RunTaskOptions extends RunOptions, TrainerResources {
  /** Keeps encoded rows from one task to the next. Default: none. */
  readonly datasets?: DatasetCache;
}

/**
 * Runs a task in this process. Loads DuckDB and tfjs when the task needs them.
 *
 * @throws OctomilError as {@link Trainer.run}
 */
export async function runTask<T extends TrainerTask>(task: T, options: RunTaskOptions = {}): Promise<TrainerResult<T>> {
  throwIfCancelled(options.signal);
  const datasets = options.datasets ?? new DatasetCache();
  try {
    return (await dispatch(task, { ...options, datasets })) as TrainerResult<T>;
  } finally {
    if (datasets !== options.datasets) await datasets.close();
  }
}

interface TaskOptions extends RunTaskOptions {
  readonly datasets: DatasetCache;
}

async function dispatch(task: TrainerTask, options: TaskOptions): Promise<TrainerResult> {
  switch (task.kind) {
    case 'describe': {
      const { describeSite } = await import('@octomil/shared/features');
      return describeSite(task.source, task, options.signal, (await resourcesOf(options)).memory);
    }
    case 'evaluate':
      return evaluateWeights(task, options);
    case 'train':
      if (task.trainer === 'own') return trainByOwnCode(task, options);
      return task.trainer === 'echo' ? echo(task, options.signal) : train(task, options);
    case 'predict': {
      const { predict } = await import('./predict.js');
      return predict(task, options.signal);
    }
  }
}

async function train(task: TfjsTrainTask, options: TaskOptions): Promise<TrainResult> {
  const { train: rows, heldOut, drift } = await loadToTrain(task, options);
  return withModel(task.architecture, rows.width, task.basePath, async ({ built, base, backend }) => {
    const { architecture, options: local } = task;
    const personal = await PersonalPart.open(task, built, base);
    if (personal !== undefined) setFlat(built, personal.start);
    const evaluation = await evaluate(built, architecture.output, heldOut, options.signal);
    const { controlVariates: files } = task;
    const control = files === undefined ? undefined : await readControlVariates(files, built.layout, task);
    const terms = control === undefined ? [] : [controlTerm(control)];
    const { classes } = task.featureSpec.target;
    const more = { ...options, heldOut, classes };
    const result = await trainLocally(built, architecture.output, rows, local, { ...more, terms });
    const { trainLoss, steps, bestEpoch } = result;
    const trained = await getFlat(built);
    const own = await personal?.finish(trained, { output: architecture.output, rows, heldOut, local, more });
    const controlled = files === undefined || control === undefined ? undefined : { files, control, steps };
    const update = await writeTrained(task, built, base, trained, controlled);
    return {
      ...{ sampleCount: rows.rows, trainLoss, evaluation, update, backend, steps, drift },
      ...(bestEpoch === undefined ? {} : { bestEpoch }),
      ...own,
    };
  });
}

async function trainByOwnCode(task: OwnCodeTrainTask, options: TaskOptions): Promise<TrainResult> {
  const { train: rows, heldOut, drift } = await loadToTrain(task, options);
  const { architecture, basePath } = task;
  const evaluation = await withModel(architecture, rows.width, basePath, ({ built }) =>
    evaluate(built, architecture.output, heldOut, options.signal),
  );
  const { runOwnCode } = await import('./own-code/run-own-code.js');
  const { memory } = await resourcesOf(options);
  return { ...(await runOwnCode(task, rows, evaluation, { ...options, memory })), drift };
}

/** @throws OctomilError `too_few_rows` */
async function loadToTrain(task: TfjsTrainTask | OwnCodeTrainTask, options: TaskOptions) {
  checkTask(task);
  const loaded = await load(task, options);
  if (loaded.train.rows >= MINIMUM_ROWS) return loaded;
  throw new OctomilError(
    'too_few_rows',
    // Not how many: this goes to the coordinator, which must not learn a number below the limit.
    `${task.source.path} has fewer than ${MINIMUM_ROWS} rows to train on; a site takes part with at least ${MINIMUM_ROWS}`,
    { details: { limit: MINIMUM_ROWS } },
  );
}

function evaluateWeights(task: EvaluateTask, options: TaskOptions): Promise<EvaluationMetrics | null> {
  checkTask(task);
  return load(task, options).then(({ heldOut }) =>
    heldOut.rows < MINIMUM_ROWS
      ? null
      : withModel(task.architecture, heldOut.width, task.weightsPath, async ({ built, base }) => {
          const personal = await PersonalPart.open(task, built, base);
          if (personal !== undefined) setFlat(built, personal.start);
          return evaluate(built, task.architecture.output, heldOut, options.signal);
        }),
  );
}

async function load(task: TfjsTrainTask | OwnCodeTrainTask | EvaluateTask, options: TaskOptions) {
  const loaded = await options.datasets.load(task, await resourcesOf(options));
  throwIfCancelled(options.signal);
  return loaded;
}

async function resourcesOf({ memoryLimitBytes, temporaryFolder, signal }: RunTaskOptions) {
  const { memoryBudget } = await import('@octomil/shared/data');
  return {
    memory: memoryBudget(memoryLimitBytes),
    ...(temporaryFolder === undefined ? {} : { folder: temporaryFolder }),
    ...(signal === undefined ? {} : { signal }),
  };
}

function writeTrained(
  task: TfjsTrainTask,
  built: BuiltModel,
  base: Float32Array,
  trained: Float32Array,
  controlled?: { readonly files: ControlVariateFiles; readonly control: ControlVariates; readonly steps: number },
): Promise<UpdateFile> {
  for (let index = 0; index < trained.length; index++) {
    const value = trained[index] ?? 0;
    if (!Number.isFinite(value)) {
      throw new OctomilError(
        'training_failed',
        `a weight became ${value} at learning rate ${task.options.learningRate}; try a smaller one`,
        { details: { learningRate: task.options.learningRate } },
      );
    }
    if (task.updateFormat === 'delta') trained[index] = value - (base[index] ?? 0);
  }
  if (controlled !== undefined) {
    const { files, control, steps } = controlled;
    const next = nextControlVariate(built, control, trained, { steps, learningRate: task.options.learningRate });
    return writeControlledUpdate(task, files, built.layout, trained, next);
  }
  return writeUpdate(task.outputPath, async (writer) => {
    await writer.write(built.layout.headerBytes);
    await writer.write(new Uint8Array(trained.buffer, trained.byteOffset, trained.byteLength));
  });
}

/** What comes from the coordinator is checked here again, before anything is read or allocated by it. */
function checkTask(task: TfjsTrainTask | OwnCodeTrainTask | EvaluateTask): void {
  parseArchitecture(task.architecture);
  parseFeatureSpec(task.featureSpec);
  const wanted = outputText(task.architecture.output);
  const given = outputText(task.featureSpec.target.output);
  if (wanted === given) return;
  throw new OctomilError('data_mismatch', `the model's output is ${wanted}, but the feature spec's target is ${given}`);
}

const outputText = (output: Output): string =>
  output.kind === 'multiclass' ? `multiclass with ${output.classes} classes` : output.kind;
