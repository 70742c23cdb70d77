import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type FeatureSpec, loadDataset, mergeStatistics, parseTargetRule } from '@octomil/shared/features';
import { type Architecture, initialWeights, parseArchitecture, seededRandom } from '@octomil/shared/models';
import { decodeWeights, encodeWeights, flatten } from '@octomil/shared/tensors';
import { DEFAULT_LOCAL_OPTIONS, type LocalOptions, runTask } from '@octomil/shared/training';
import { aggregate } from './aggregate.js';

const SITES = 3;
const HOLDOUT = { salt: 'salt', shareRatio: 0 };
const STEPS = 8;
const RATE = 0.5;
/** Every batch is the whole site, so that the reference needs no shuffling. */
const LOCAL: LocalOptions = {
  ...DEFAULT_LOCAL_OPTIONS,
  epochs: STEPS,
  batchSize: 1_000,
  learningRate: RATE,
  optimizer: 'sgd',
};

interface Rows {
  readonly x: readonly (readonly number[])[];
  readonly y: readonly number[];
}

let folder: string;
let spec: FeatureSpec;
let architecture: Architecture;
let base: string;
const paths: string[] = [];
const sites: Rows[] = [];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-scaffold-training-'));
  // Each site lies elsewhere and believes another rule: what is best for one is bad for the others.
  const rules = [
    { shift: -3, sign: 1 },
    { shift: 0, sign: -1 },
    { shift: 4, sign: 1 },
  ];
  for (const [index, { shift, sign }] of rules.entries()) {
    const random = seededRandom(index + 1, 'site');
    const lines = Array.from({ length: 60 }, () => {
      const a = shift + random.normal();
      const b = 2 * random.normal();
      return [a, b, sign * b + 0.5 * random.normal() > 0 ? 1 : 0].join();
    });
    const path = join(folder, `site-${index}.csv`);
    await writeFile(path, ['a,b,y', ...lines].join('\n'));
    paths.push(path);
  }
  const target = parseTargetRule('y');
  const described = await Promise.all(
    paths.map(async (path, index) => ({
      deviceId: `d${index}`,
      name: `site-${index}`,
      statistics: await runTask({ kind: 'describe', source: { path }, target }),
    })),
  );
  spec = mergeStatistics(described, { target });
  architecture = parseArchitecture({ name: 'logistic' });
  for (const path of paths) {
    const { train } = await loadDataset({ path }, spec, HOLDOUT);
    const numbers = await train.read(Uint32Array.from({ length: train.rows }, (_, row) => row));
    const x = Array.from({ length: train.rows }, (_, row) => [...numbers.subarray(row * 2, row * 2 + 2)]);
    sites.push({ x, y: [...train.y] });
  }
  base = join(folder, 'base');
  await writeFile(base, encodeWeights(initialWeights(architecture, 2, 3)));
}, 180_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

const numbersOf = async (path: string): Promise<number[]> => [...flatten(decodeWeights(await readFile(path)))];
const shapesOf = async (path: string): Promise<string[]> => decodeWeights(await readFile(path)).map(({ name }) => name);

interface Run {
  readonly weights: number[];
  readonly server: number[];
  readonly own: number[][];
}

/** Rounds as agents and coordinator run them; `asked` says which sites of each. */
async function train(
  strategy: 'scaffold' | 'fedavg',
  asked: readonly (readonly number[])[],
  name: string,
): Promise<Run> {
  const ownOf = (site: number): string => join(folder, `${name}-own-${site}`);
  let checkpoint = base;
  let state: string | undefined;
  for (const [index, round] of asked.entries()) {
    const updates: { path: string; weight: number }[] = [];
    for (const site of round) {
      const outputPath = join(folder, `${name}-update-${site}`);
      const own = ownOf(site);
      const result = await runTask({
        ...{ kind: 'train', trainer: 'tfjs', architecture, featureSpec: spec, holdout: HOLDOUT, updateFormat: 'delta' },
        ...{ source: { path: paths[site] ?? '' }, basePath: checkpoint, outputPath, options: LOCAL },
        ...(strategy === 'fedavg'
          ? {}
          : {
              controlVariates: {
                ...(state === undefined ? {} : { serverPath: state }),
                ...(existsSync(own) ? { ownPath: own } : {}),
                ownOutputPath: `${own}.next`,
              },
            }),
      });
      expect(result.steps).toBe(STEPS);
      if (strategy === 'scaffold') await writeFile(own, await readFile(`${own}.next`));
      updates.push({ path: outputPath, weight: 1 });
    }
    const outputPath = join(folder, `${name}-checkpoint-${index}`);
    const stateOutputPath = join(folder, `${name}-state-${index}`);
    await aggregate({
      ...{ basePath: checkpoint, updates, updateFormat: 'delta', strategy, round: index + 1 },
      ...{ outputPath, stateOutputPath },
      ...(strategy === 'fedavg' ? {} : { control: { stateShare: 1, updateShare: round.length / SITES } }),
      ...(state === undefined ? {} : { statePath: state }),
    });
    checkpoint = outputPath;
    if (strategy === 'scaffold') state = stateOutputPath;
  }
  const zeros = (await numbersOf(base)).map(() => 0);
  const own = await Promise.all(
    paths.map(async (_, site) => (existsSync(ownOf(site)) ? numbersOf(ownOf(site)) : zeros)),
  );
  return { weights: await numbersOf(checkpoint), server: state === undefined ? zeros : await numbersOf(state), own };
}

/** Weights of `logistic`, in the order of names: bias, then kernel. */
function gradient({ x, y }: Rows, weights: readonly number[]): number[] {
  const [bias = 0, ...kernel] = weights;
  const sums = weights.map(() => 0);
  for (const [row, inputs] of x.entries()) {
    const logit = inputs.reduce((sum, value, at) => sum + value * (kernel[at] ?? 0), bias);
    const error = 1 / (1 + Math.exp(-logit)) - (y[row] ?? 0);
    for (const [at, value] of [1, ...inputs].entries()) sums[at] = (sums[at] ?? 0) + (error * value) / x.length;
  }
  return sums;
}

function loss(weights: readonly number[]): number {
  const [bias = 0, ...kernel] = weights;
  const perSite = sites.map(({ x, y }) =>
    x.reduce((sum, inputs, row) => {
      const logit = inputs.reduce((total, value, at) => total + value * (kernel[at] ?? 0), bias);
      return sum + Math.log1p(Math.exp(-(2 * (y[row] ?? 0) - 1) * logit)) / x.length;
    }, 0),
  );
  return perSite.reduce((sum, value) => sum + value, 0) / SITES;
}

/** Algorithm 1 of Karimireddy et al. 2020 with option II and η_g = 1, line by line in float64. */
async function reference(asked: readonly (readonly number[])[]): Promise<Run> {
  let x = await numbersOf(base);
  let c = x.map(() => 0);
  const own = paths.map(() => x.map(() => 0));
  for (const round of asked) {
    const moves: number[][] = [];
    const changes: number[][] = [];
    for (const site of round) {
      const ci = own[site] ?? [];
      let y = [...x];
      for (let step = 0; step < STEPS; step++) {
        const g = gradient(sites[site] ?? { x: [], y: [] }, y);
        y = y.map((value, at) => value - RATE * ((g[at] ?? 0) - (ci[at] ?? 0) + (c[at] ?? 0)));
      }
      const next = ci.map((value, at) => value - (c[at] ?? 0) + ((x[at] ?? 0) - (y[at] ?? 0)) / (STEPS * RATE));
      moves.push(y.map((value, at) => value - (x[at] ?? 0)));
      changes.push(next.map((value, at) => value - (ci[at] ?? 0)));
      own[site] = next;
    }
    const sum = (vectors: readonly number[][], at: number) => vectors.reduce((all, one) => all + (one[at] ?? 0), 0);
    x = x.map((value, at) => value + sum(moves, at) / round.length);
    c = c.map((value, at) => value + sum(changes, at) / SITES);
  }
  return { weights: x, server: c, own };
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length);
  for (const [at, value] of expected.entries()) expect(Math.abs((actual[at] ?? 0) - value)).toBeLessThan(1e-5);
}

const everybody = Array.from({ length: 5 }, () => [0, 1, 2]);

test('sites and server together do Algorithm 1, and the mean of the sites’ control variates is the server’s', async () => {
  expect(await shapesOf(base)).toEqual([expect.stringMatching(/bias/), expect.stringMatching(/kernel/)]);
  const run = await train('scaffold', everybody, 'full');
  const expected = await reference(everybody);
  expectClose(run.weights, expected.weights);
  expectClose(run.server, expected.server);
  for (const [site, own] of run.own.entries()) expectClose(own, expected.own[site] ?? []);
  expect(Math.max(...run.server.map(Math.abs))).toBeGreaterThan(1e-3);
  expectClose(
    run.server,
    run.server.map((_, at) => run.own.reduce((sum, own) => sum + (own[at] ?? 0), 0) / SITES),
  );
}, 240_000);

test('so they do when not every site is asked in every round', async () => {
  const some = [[0, 1], [2], [0, 2], [1], [0, 1, 2], [1, 2]];
  const run = await train('scaffold', some, 'partial');
  const expected = await reference(some);
  expectClose(run.weights, expected.weights);
  expectClose(run.server, expected.server);
  for (const [site, own] of run.own.entries()) expectClose(own, expected.own[site] ?? []);
}, 240_000);

test('where sites differ and take many steps, it gets lower than averaging in as many rounds', async () => {
  const rounds = Array.from({ length: 12 }, () => [0, 1, 2]);
  const averaged = await train('fedavg', rounds, 'averaged');
  const controlled = await train('scaffold', rounds, 'controlled');
  let best = await numbersOf(base);
  for (let step = 0; step < 20_000; step++) {
    const gradients = sites.map((site) => gradient(site, best));
    best = best.map((value, at) => value - 0.3 * (gradients.reduce((sum, g) => sum + (g[at] ?? 0), 0) / SITES));
  }
  const excess = (run: Run): number => loss(run.weights) - loss(best);
  expect(excess(averaged)).toBeGreaterThan(0.001);
  expect(excess(controlled)).toBeLessThan(excess(averaged) / 3);
}, 240_000);
