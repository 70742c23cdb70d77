import { performance } from 'node:perf_hooks';
import { createFoldKernel, type FoldKernel, kernelMemoryBytes, selectBackend } from '@octomil/shared/compute';
import { OctomilError } from '@octomil/shared/errors';
import {
  controlledUpdateLayout,
  locateParameter,
  type ParameterLayout,
  sameLayout,
  stackedLayout,
} from '@octomil/shared/tensors';
import type { AggregationJob, AggregationResult } from './aggregation-job.js';
import { kernelFold, type RangeFold, UPDATES_PER_PASS } from './range-fold.js';
import { ReadAhead, type ReadRequest } from './read-ahead.js';
import { strategyByName } from './strategies.js';
import type { PreparedStrategy } from './strategy.js';
import { tensorFold } from './tensor-fold.js';
import { rejectCorrupt, requireSameLayout } from './update-rejection.js';
import { WeightsSink } from './weights-sink.js';
import { WeightsSource } from './weights-source.js';

const DEFAULT_RANGE_PARAMS = 131_072;
/** Buffers that are being read while the fold works on others. */
const BUFFERS_AHEAD = 4;

/** The kernel of a job and its vectors. */
interface Workspace {
  readonly key: string;
  readonly kernel: FoldKernel;
  readonly sum: Float64Array<ArrayBuffer>;
  /** Of a controlled strategy: the sum of the control variates' changes. */
  readonly controlSum: Float64Array<ArrayBuffer> | undefined;
  /** Two, so that one is written to the file while the other is computed. */
  readonly evenOutput: Float32Array<ArrayBuffer>;
  readonly oddOutput: Float32Array<ArrayBuffer>;
  readonly fresh: readonly Float32Array<ArrayBuffer>[];
  readonly buffers: readonly Float32Array<ArrayBuffer>[];
}

/**
 * The workspace of the job before: rounds follow each other with the same sizes, and fresh memory costs a page fault for
 * every 4 KiB. It goes when the worker thread ends.
 */
let spare: Workspace | undefined;

function takeWorkspace(
  backend: AggregationJob['backend'],
  rangeParams: number,
  { slots, controlled }: { readonly slots: number; readonly controlled: boolean },
  bufferCount: number,
): Workspace {
  const implementation = backend === 'wasm' || backend === 'js' ? backend : undefined;
  const key = [implementation, rangeParams, slots, controlled, bufferCount].join();
  const taken = spare;
  spare = undefined;
  if (taken?.key === key) return taken;
  const sums = Array.from({ length: controlled ? 2 : 1 }, () => rangeParams * 8);
  const vectors = [...sums, ...Array.from({ length: bufferCount + slots + 2 }, () => rangeParams * 4)];
  const kernel = createFoldKernel({
    memoryBytes: kernelMemoryBytes(vectors),
    ...(implementation === undefined ? {} : { implementation }),
  });
  const vector = () => kernel.float32(rangeParams);
  return {
    key,
    kernel,
    sum: kernel.float64(rangeParams),
    controlSum: controlled ? kernel.float64(rangeParams) : undefined,
    evenOutput: vector(),
    oddOutput: vector(),
    fresh: Array.from({ length: slots }, vector),
    buffers: Array.from({ length: bufferCount }, vector),
  };
}

/** Everything open for one job. */
interface Files {
  readonly base: WeightsSource;
  readonly state: WeightsSource | undefined;
  readonly updates: readonly WeightsSource[];
  /** Of each update. */
  readonly updateLayout: ParameterLayout;
}

/**
 * Turns a base and the accepted updates into the next checkpoint: a pure function of the job's files, options and backend,
 * so repeating it gives the same bytes, and the order in which updates arrived does not matter.
 *
 * Works range after range of the parameters, so memory depends neither on the model nor on the number of updates.
 *
 * @throws `invalid_input` for a wrong strategy, option, weight or round; `update_rejected` naming the update for a wrong
 * layout or a value that is not finite; `training_failed` when the checkpoint or the state would not be finite;
 * `corrupt_file` for a base or state that cannot be read; `cancelled` by the signal. Nothing is left half-written.
 */
export async function aggregate(job: AggregationJob, signal?: AbortSignal): Promise<AggregationResult> {
  const started = performance.now();
  const strategy = strategyByName(job.strategy, job.options);
  const totalWeight = checkJob(job, strategy);
  const opened: WeightsSource[] = [];
  const openSource = (path: string): WeightsSource => {
    const source = WeightsSource.open(path, opened.length);
    opened.push(source);
    return source;
  };
  const sinks: WeightsSink[] = [];
  try {
    const files = await openFiles(job, strategy, openSource);
    const { layout } = files.base;
    const stateLayout = stateLayoutOf(layout, strategy);
    if (files.state !== undefined) requireState(stateLayout, files.state.layout, strategy);
    const checkpoint = await WeightsSink.create(job.outputPath, layout);
    sinks.push(checkpoint);
    const state =
      job.stateOutputPath === undefined || strategy.slots.length === 0
        ? undefined
        : await WeightsSink.create(job.stateOutputPath, stateLayout);
    if (state !== undefined) sinks.push(state);
    const folded = await foldAll(job, strategy, files, { checkpoint, state }, signal);
    // The state first: a checkpoint that exists has its state beside it.
    const writtenState = (await state?.finish()) ?? null;
    return {
      checkpoint: await checkpoint.finish(),
      state: writtenState,
      ...folded,
      totalWeight,
      seconds: (performance.now() - started) / 1000,
    };
  } finally {
    for (const source of opened) source.close();
    await Promise.all(sinks.map((sink) => sink.discard()));
  }
}

async function foldAll(
  job: AggregationJob,
  strategy: PreparedStrategy,
  files: Files,
  sinks: { checkpoint: WeightsSink; state: WeightsSink | undefined },
  signal: AbortSignal | undefined,
): Promise<Pick<AggregationResult, 'backend' | 'normL2' | 'controlNormL2'>> {
  const { layout } = files.base;
  const slots = strategy.slots.length;
  const rangeParams = Math.max(4, Math.min(job.rangeParams ?? DEFAULT_RANGE_PARAMS, layout.totalParams));
  const bufferCount = 1 + slots + UPDATES_PER_PASS + BUFFERS_AHEAD;
  const { controlled } = strategy;
  const workspace = takeWorkspace(job.backend, rangeParams, { slots, controlled }, bufferCount);
  const { kernel, sum, controlSum, evenOutput, oddOutput, fresh, buffers } = workspace;
  const fold = await foldOf(job, kernel, rangeParams);
  const reads = new ReadAhead(requestsOf(files, slots, controlled, rangeParams), buffers);
  let sumOfSquares = 0;
  let controlSquares = 0;
  const writing: Promise<void>[] = [];
  try {
    for (let start = 0, turn = 0; start < layout.totalParams; start += rangeParams, turn++) {
      signal?.throwIfAborted();
      const length = Math.min(rangeParams, layout.totalParams - start);
      const base = await reads.take();
      const held = [];
      for (let slot = 0; files.state !== undefined && slot < slots; slot++) held.push(await reads.take());
      const take = (updateIndex: number) => rejectCorrupt(() => reads.take(), { updateIndex });
      const delta = sum.subarray(0, length);
      const change = controlSum?.subarray(0, length);
      if (change !== undefined) await fold.fold({ layout: files.updateLayout, start, take }, change);
      const weightsStart = change === undefined ? start : layout.totalParams + start;
      await fold.fold({ layout: files.updateLayout, start: weightsStart, take }, delta);
      if (job.updateFormat === 'weights') kernel.subtract(delta, base.values);
      // The buffer that the write before last read from.
      await writing[turn % 2];
      const next = (turn % 2 === 0 ? evenOutput : oddOutput).subarray(0, length);
      const state =
        files.state === undefined
          ? strategy.slots.map(({ initial }, slot) => (fresh[slot] ?? next).subarray(0, length).fill(initial))
          : held.map((buffer) => buffer.values);
      strategy.step({
        base: base.values,
        delta,
        next,
        state,
        ...(change === undefined || job.control === undefined ? {} : { control: { ...job.control, change } }),
        addDelta: () => void kernel.addRounded(base.values, delta, next),
      });
      sumOfSquares += measureOutput(kernel, layout, next, start, 'the checkpoint');
      for (const [slot, values] of state.entries()) {
        // A parameter whose state is infinite would never move again, and its checkpoints would look well.
        const squares = measureOutput(kernel, layout, values, start, `the strategy's ${strategy.slots[slot]?.name}`);
        if (controlled) controlSquares += squares;
      }
      const write = sinks.checkpoint.write(start, next);
      write.catch(() => undefined);
      writing[turn % 2] = write;
      await Promise.all(
        state.map(async (values, slot) => sinks.state?.write(slot * layout.totalParams + start, values)),
      );
      for (const buffer of [base, ...held]) buffer.release();
    }
    await Promise.all(writing);
    return {
      backend: fold.name,
      normL2: Math.sqrt(sumOfSquares),
      ...(controlled ? { controlNormL2: Math.sqrt(controlSquares) } : {}),
    };
  } finally {
    await reads.drain();
    await Promise.allSettled(writing);
    spare = workspace;
  }
}

/** Range after range: the base, the state's slots, then every update in order; of controlled ones the first halves first. */
function* requestsOf(
  { base, state, updates }: Files,
  slots: number,
  controlled: boolean,
  rangeParams: number,
): Generator<ReadRequest> {
  const { totalParams } = base.layout;
  for (let start = 0; start < totalParams; start += rangeParams) {
    const length = Math.min(rangeParams, totalParams - start);
    yield base.request(start, length);
    for (let slot = 0; state !== undefined && slot < slots; slot++) {
      yield state.request(slot * totalParams + start, length);
    }
    if (controlled) for (const update of updates) yield update.request(start, length);
    const weightsStart = controlled ? totalParams + start : start;
    for (const update of updates) yield update.request(weightsStart, length);
  }
}

async function foldOf(job: AggregationJob, kernel: FoldKernel, rangeParams: number): Promise<RangeFold> {
  const weights = job.updates.map((update) => update.weight);
  if (job.backend !== 'tfjs') return kernelFold(kernel, weights);
  return tensorFold(await selectBackend(), kernel, weights, rangeParams);
}

/**
 * @param what it is, for the message
 * @returns the range's share of the squared norm
 */
function measureOutput(
  kernel: FoldKernel,
  layout: ParameterLayout,
  values: Float32Array,
  start: number,
  what: string,
): number {
  kernel.resetMeasure();
  kernel.measure(values);
  const { finite, sumOfSquares } = kernel.measured();
  if (finite) return sumOfSquares;
  const index = values.findIndex((value) => !Number.isFinite(value));
  const { name = '', element = 0 } = locateParameter(layout, start + index) ?? {};
  throw new OctomilError(
    'training_failed',
    `${what} would have ${values[index]} at element ${element} of tensor "${name}", though every update is finite; lower the server learning rate or bound the updates`,
    { details: { tensor: name, element } },
  );
}

function checkJob(job: AggregationJob, strategy: PreparedStrategy): number {
  const refuse = (reason: string): never => {
    throw new OctomilError('invalid_input', `this aggregation cannot run: ${reason}`);
  };
  if (!Number.isSafeInteger(job.round) || job.round < 1) refuse(`its round is ${job.round}; rounds count from 1`);
  if (job.updates.length === 0) refuse('it has no updates');
  let totalWeight = 0;
  for (const [index, { weight }] of job.updates.entries()) {
    if (!Number.isFinite(weight) || weight < 0) refuse(`update ${index} has the weight ${weight}; weights are counts`);
    totalWeight += weight;
  }
  if (totalWeight === 0) refuse(`all ${job.updates.length} updates have the weight 0`);
  const rangeParams = job.rangeParams ?? DEFAULT_RANGE_PARAMS;
  if (!Number.isSafeInteger(rangeParams) || rangeParams < 4 || rangeParams % 4 !== 0) {
    refuse(`rangeParams is ${rangeParams}; it is a multiple of 4`);
  }
  if (strategy.slots.length > 0) {
    if (job.stateOutputPath === undefined) refuse(`${strategy.name} keeps state and needs stateOutputPath`);
    if (job.round > 1 && job.statePath === undefined) {
      refuse(`${strategy.name} keeps state and round ${job.round} was given none from the round before`);
    }
  }
  if (strategy.controlled) {
    if (job.updateFormat !== 'delta')
      refuse(`${strategy.name} needs updates that are changes, not ${job.updateFormat}`);
    const { stateShare = -1, updateShare = -1 } = job.control ?? {};
    if (!(stateShare >= 0 && stateShare <= 1 && updateShare >= 0 && updateShare <= 1)) {
      refuse(`${strategy.name} needs the shares of its control variate, each from 0 to 1`);
    }
  }
  return totalWeight;
}

async function openFiles(
  job: AggregationJob,
  strategy: PreparedStrategy,
  openSource: (path: string) => WeightsSource,
): Promise<Files> {
  const base = openSource(job.basePath);
  const keepsState = strategy.slots.length > 0;
  const state = keepsState && job.statePath !== undefined ? openSource(job.statePath) : undefined;
  const updateLayout = strategy.controlled ? controlledUpdateLayout(base.layout) : base.layout;
  const updates: WeightsSource[] = [];
  for (const [updateIndex, { path }] of job.updates.entries()) {
    const source = await rejectCorrupt(() => openSource(path), { updateIndex });
    requireSameLayout(updateLayout, source.layout, { updateIndex });
    updates.push(source);
  }
  return { base, state, updates, updateLayout };
}

/** Slot after slot, each like the model: `momentum/<tensor>`, then `secondMoment/<tensor>`. */
function stateLayoutOf(layout: ParameterLayout, strategy: PreparedStrategy): ParameterLayout {
  return stackedLayout(
    layout,
    strategy.slots.map(({ name }) => name),
  );
}

function requireState(expected: ParameterLayout, actual: ParameterLayout, strategy: PreparedStrategy): void {
  const difference = sameLayout(expected, actual);
  if (difference !== undefined) {
    throw new OctomilError('corrupt_file', `the state file is not one of ${strategy.name}: ${difference}`);
  }
}
