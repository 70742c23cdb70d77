import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { decodeWeights, encodeWeights, flatten, type NamedTensor } from '@octomil/shared/tensors';
import fc from 'fast-check';
import { aggregate } from './aggregate.js';
import type { AggregationJob } from './aggregation-job.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'octomil-aggregate-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
/** Two tensors out of name order; the flat vector is kernel, then offset. */
function tensorsOf(values: readonly number[]): NamedTensor[] {
  const data = Float32Array.from(values);
  return [
    { name: 'offset', shape: [1], data: data.slice(data.length - 1) },
    { name: 'kernel', shape: [data.length - 1], data: data.slice(0, -1) },
  ];
}

function fileOf(values: readonly number[] | readonly NamedTensor[]): string {
  const path = join(folder, `${files++}.safetensors`);
  const tensors = typeof values[0] === 'number' ? tensorsOf(values as number[]) : (values as NamedTensor[]);
  writeFileSync(path, encodeWeights(tensors));
  return path;
}

const outputs = (): Pick<AggregationJob, 'outputPath' | 'stateOutputPath'> => ({
  outputPath: join(folder, `${files++}.checkpoint`),
  stateOutputPath: join(folder, `${files++}.state`),
});

const valuesOf = (path: string): number[] => [...flatten(decodeWeights(readFileSync(path)))];

function jobOf(
  base: readonly number[],
  updates: readonly (readonly number[])[],
  weights: readonly number[],
  more: Partial<AggregationJob> = {},
): AggregationJob {
  return {
    basePath: fileOf(base),
    updates: updates.map((values, index) => ({ path: fileOf(values), weight: weights[index] ?? 0 })),
    updateFormat: 'delta',
    strategy: 'fedavg',
    round: 1,
    ...outputs(),
    ...more,
  };
}

/** Algorithm 2 of Reddi et al. 2021, FedAvgM and FedAvg, in float64 and written apart from the code under test. */
class Reference {
  readonly #strategy: string;
  readonly #x: number[];
  readonly #m: number[];
  readonly #v: number[];

  constructor(strategy: string, base: readonly number[], tau: number) {
    this.#strategy = strategy;
    this.#x = [...base];
    this.#m = base.map(() => 0);
    this.#v = base.map(() => tau ** 2);
  }

  round(delta: readonly number[], o: { eta: number; beta1: number; beta2: number; tau: number }): number[] {
    for (const [i, d] of delta.entries()) {
      const [x = 0, m = 0, v = 0] = [this.#x[i], this.#m[i], this.#v[i]];
      if (this.#strategy === 'fedavg' || this.#strategy === 'fedprox') {
        this.#x[i] = x + d;
        continue;
      }
      if (this.#strategy === 'fedavgm') {
        const moved = o.beta1 * m + d;
        this.#m[i] = moved;
        this.#x[i] = x + o.eta * moved;
        continue;
      }
      const mean = o.beta1 * m + (1 - o.beta1) * d;
      const square = d ** 2;
      const sign = v > square ? 1 : v < square ? -1 : 0;
      const second =
        this.#strategy === 'fedadagrad'
          ? v + square
          : this.#strategy === 'fedadam'
            ? o.beta2 * v + (1 - o.beta2) * square
            : v - (1 - o.beta2) * square * sign;
      this.#m[i] = mean;
      this.#v[i] = second;
      this.#x[i] = x + (o.eta * mean) / (second ** 0.5 + o.tau);
    }
    return [...this.#x];
  }
}

const number = fc.double({ min: -1, max: 1, noNaN: true }).map(Math.fround);
const scenario = fc
  .tuple(fc.integer({ min: 2, max: 30 }), fc.integer({ min: 1, max: 6 }))
  .chain(([length, devices]) => {
    const vector = fc.array(number, { minLength: length, maxLength: length });
    const round = fc.record({
      deltas: fc.array(vector, { minLength: devices, maxLength: devices }),
      weights: fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: devices, maxLength: devices }),
    });
    return fc.record({ base: vector, rounds: fc.array(round, { minLength: 3, maxLength: 3 }) });
  });

function weightedMean(deltas: readonly number[][], weights: readonly number[]): number[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return (deltas[0] ?? []).map(
    (_, i) => deltas.reduce((sum, d, k) => sum + (weights[k] ?? 0) * (d[i] ?? 0), 0) / total,
  );
}

test.each([
  ['fedavg', {}, { eta: 1, beta1: 0, beta2: 0, tau: 0 }],
  ['fedprox', { proximalMu: 0.1 }, { eta: 1, beta1: 0, beta2: 0, tau: 0 }],
  ['fedavgm', { serverLearningRate: 0.5, momentum: 0.8 }, { eta: 0.5, beta1: 0.8, beta2: 0, tau: 0 }],
  ['fedadam', {}, { eta: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3 }],
  [
    'fedyogi',
    { serverLearningRate: 0.3, beta1: 0.5, beta2: 0.9, tau: 0.01 },
    { eta: 0.3, beta1: 0.5, beta2: 0.9, tau: 0.01 },
  ],
  ['fedadagrad', { beta1: 0.2 }, { eta: 0.1, beta1: 0.2, beta2: 0, tau: 1e-3 }],
])('%s follows its paper over rounds, its state carried in files', async (strategy, options, constants) => {
  await fc.assert(
    fc.asyncProperty(scenario, async ({ base, rounds }) => {
      const reference = new Reference(strategy, base, constants.tau);
      let basePath = fileOf(base);
      let statePath: string | undefined;
      for (const [index, { deltas, weights }] of rounds.entries()) {
        const job = {
          ...jobOf(base, deltas, weights, { strategy, options, round: index + 1, rangeParams: 8 }),
          basePath,
          ...(statePath === undefined ? {} : { statePath }),
        };
        const result = await aggregate(job);
        const expected = reference.round(weightedMean(deltas, weights), constants);
        for (const [at, value] of valuesOf(result.checkpoint.path).entries()) {
          expect(Math.abs(value - (expected[at] ?? Number.NaN))).toBeLessThan(2e-5);
        }
        basePath = result.checkpoint.path;
        statePath = result.state?.path;
        expect(result.state === null).toBe(strategy === 'fedavg' || strategy === 'fedprox');
      }
    }),
    { numRuns: 12 },
  );
});

test('the mean is exact to the last bit of float32, whatever the backend and the range', async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async ({ base, rounds: [round] }) => {
      const { deltas, weights } = round ?? { deltas: [], weights: [] };
      const job = jobOf(base, deltas, weights);
      const digests = new Set<string>();
      for (const variant of [{}, { rangeParams: 4 }, { backend: 'js' as const }, { rangeParams: 12 }]) {
        const result = await aggregate({ ...job, ...variant });
        digests.add(result.checkpoint.sha256);
        expect(createHash('sha256').update(readFileSync(result.checkpoint.path)).digest('hex')).toBe(
          result.checkpoint.sha256,
        );
      }
      expect(digests.size).toBe(1);
      const mean = weightedMean(deltas, weights);
      expect(valuesOf(job.outputPath)).toEqual(base.map((value, index) => Math.fround(value + (mean[index] ?? 0))));
    }),
    { numRuns: 15 },
  );
});

test('updates that are weights give the checkpoint of the same updates as deltas', async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async ({ base, rounds: [round] }) => {
      const { deltas, weights } = round ?? { deltas: [], weights: [] };
      const trained = deltas.map((delta) => delta.map((value, index) => Math.fround(value + (base[index] ?? 0))));
      const result = await aggregate(jobOf(base, trained, weights, { updateFormat: 'weights' }));
      const mean = weightedMean(trained, weights);
      for (const [index, value] of valuesOf(result.checkpoint.path).entries()) {
        expect(value).toBeCloseTo(mean[index] ?? Number.NaN, 6);
      }
      expect(result.normL2).toBeCloseTo(Math.hypot(...valuesOf(result.checkpoint.path)), 5);
    }),
    { numRuns: 10 },
  );
});

test('tensor products on the tfjs backend agree with the kernel within 1e-6', async () => {
  const count = 37;
  const vector = (salt: number): number[] =>
    Array.from({ length: 50 }, (_, i) => Math.fround(Math.sin(i * 7.3 + salt)));
  const job = jobOf(
    vector(0),
    Array.from({ length: count }, (_, index) => vector(index + 1)),
    Array.from({ length: count }, (_, index) => index * 13 + 1),
    { rangeParams: 16 },
  );
  await aggregate(job);
  const onKernel = valuesOf(job.outputPath);
  const result = await aggregate({ ...job, backend: 'tfjs' });
  expect(result.backend).toMatch(/^tfjs:\w/);
  const worst = Math.max(...valuesOf(job.outputPath).map((value, i) => Math.abs(value - (onKernel[i] ?? Number.NaN))));
  expect(worst).toBeLessThan(1e-6);
  const again = await aggregate({ ...job, backend: 'tfjs' });
  expect(again.checkpoint.sha256).toBe(result.checkpoint.sha256);
});

test('an update of weight 0 changes nothing, and only zeros are an error', async () => {
  const job = jobOf(
    [1, 2],
    [
      [1, 1],
      [9, 9],
    ],
    [3, 0],
  );
  await aggregate(job);
  expect(valuesOf(job.outputPath)).toEqual([2, 3]);
  await expect(aggregate(jobOf([1, 2], [[1, 1]], [0]))).rejects.toThrow(
    /invalid_input.*all 1 updates have the weight 0/,
  );
});

test.each(['wasm', 'js', 'tfjs'] as const)(
  'NaN in an update is refused on %s with its update, tensor and element, and nothing is left behind',
  async (backend) => {
    const good = Array.from({ length: 30 }, () => 1);
    const bad = good.with(21, Number.NaN);
    const job = jobOf(good, [good, good, good, good, good, bad], [1, 1, 1, 1, 1, 0], { rangeParams: 8, backend });
    const before = readdirSync(folder);
    await expect(aggregate(job)).rejects.toMatchObject({
      code: 'update_rejected',
      message: expect.stringContaining('update 5 has NaN at element 21 of tensor "kernel"'),
      details: { updateIndex: 5, tensor: 'kernel', element: 21 },
    });
    expect(readdirSync(folder)).toEqual(before);
  },
);

test('another layout and a file cut short are refused, naming the update', async () => {
  const job = jobOf(
    [1, 2, 3],
    [
      [1, 2, 3],
      [1, 2],
    ],
    [1, 1],
  );
  await expect(aggregate(job)).rejects.toThrow(
    /update_rejected.*update 1 does not fit.*"kernel" has the shape \[1\], expected \[2\]/,
  );
  const cut = jobOf([1, 2, 3], [[1, 2, 3]], [1]);
  const path = cut.updates[0]?.path ?? '';
  writeFileSync(path, readFileSync(path).subarray(0, -1));
  await expect(aggregate(cut)).rejects.toThrow(/update_rejected.*update 0 cannot be read/);
});

test('a checkpoint that would overflow float32 is an error that names the place', async () => {
  const job = jobOf([3e38, 0], [[3e38, 0]], [1]);
  await expect(aggregate(job)).rejects.toThrow(/training_failed.*Infinity at element 0 of tensor "kernel"/);
});

test.each([
  ['fedadam', 'secondMoment', {}],
  ['fedavgm', 'momentum', { serverLearningRate: 0.01 }],
])('state of %s that would overflow float32 is an error that names the place', async (strategy, slot, options) => {
  // The change is 6e38, and the step by it is not.
  const job = jobOf([0, -3e38], [[0, 3e38]], [1], { strategy, options, updateFormat: 'weights' });
  await expect(aggregate(job)).rejects.toThrow(
    new RegExp(`training_failed.*the strategy's ${slot} would have Infinity at element 0 of tensor "offset"`),
  );
});

test('state that is missing or of another strategy is refused', async () => {
  const first = jobOf([1, 2], [[1, 1]], [1], { strategy: 'fedavgm' });
  const { state } = await aggregate(first);
  await expect(aggregate({ ...first, round: 2 })).rejects.toThrow(/keeps state and round 2 was given none/);
  const other = { ...first, strategy: 'fedadam', round: 2, statePath: state?.path ?? '' };
  await expect(aggregate(other)).rejects.toThrow(/corrupt_file.*not one of fedadam/);
});

test('an abort stops it and leaves nothing behind', async () => {
  const job = jobOf([1, 2], [[1, 1]], [1]);
  const before = readdirSync(folder);
  await expect(aggregate(job, AbortSignal.abort())).rejects.toMatchObject({ name: 'AbortError' });
  expect(readdirSync(folder)).toEqual(before);
});

test('more updates than files may be open at once are all read', async () => {
  const updates = Array.from({ length: 140 }, (_, index) => [index, 1]);
  const job = jobOf(
    [0, 0],
    updates,
    updates.map(() => 1),
  );
  await aggregate(job);
  expect(valuesOf(job.outputPath)).toEqual([69.5, 1]);
});

test('a model without parameters is aggregated too', async () => {
  const empty = [{ name: 'none', shape: [0], data: new Float32Array() }];
  const job = { ...jobOf([1, 2], [], []), basePath: fileOf(empty), updates: [{ path: fileOf(empty), weight: 1 }] };
  const { checkpoint } = await aggregate(job);
  expect(readFileSync(checkpoint.path)).toEqual(readFileSync(job.basePath));
});
