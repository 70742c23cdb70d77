import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { controlledUpdateLayout, encodeFlat, flatView, layoutOf, parseLayout } from '@octomil/shared/tensors';
import fc from 'fast-check';
import { aggregate } from './aggregate.js';
import type { AggregationJob } from './aggregation-job.js';
import { validateUpdate, validateUpdateBytes } from './validate-update.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'octomil-scaffold-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Names that would mix with the halves' own prefixes, were these not before both. */
const modelOf = (length: number) =>
  layoutOf([
    { name: 'zeta', shape: [1] },
    { name: 'alpha', shape: [length - 1] },
  ]);

let files = 0;
function fileOf(layout: ReturnType<typeof modelOf>, values: readonly number[]): string {
  const path = join(folder, `${files++}`);
  writeFileSync(path, encodeFlat(layout, Float32Array.from(values)));
  return path;
}

function valuesOf(path: string): number[] {
  const bytes = readFileSync(path);
  return [...flatView(bytes, parseLayout(bytes))];
}

interface Sent {
  readonly control: readonly number[];
  readonly weights: readonly number[];
}

async function step(
  base: readonly number[],
  sent: readonly Sent[],
  control: AggregationJob['control'],
  before: Pick<AggregationJob, 'round' | 'statePath' | 'options' | 'rangeParams'>,
): Promise<{ next: number[]; server: number[]; statePath: string; controlNormL2: number | undefined }> {
  const layout = modelOf(base.length);
  const both = controlledUpdateLayout(layout);
  const statePath = join(folder, `${files++}.state`);
  const outputPath = join(folder, `${files++}.checkpoint`);
  const { checkpoint, controlNormL2 } = await aggregate({
    basePath: fileOf(layout, base),
    updates: sent.map((one) => ({ path: fileOf(both, [...one.control, ...one.weights]), weight: 1 })),
    updateFormat: 'delta',
    strategy: 'scaffold',
    ...(control === undefined ? {} : { control }),
    ...before,
    outputPath,
    stateOutputPath: statePath,
  });
  expect(parseLayout(readFileSync(checkpoint.path)).tensors.map(({ name }) => name)).toEqual(['alpha', 'zeta']);
  return { next: valuesOf(checkpoint.path), server: valuesOf(statePath), statePath, controlNormL2 };
}

const number = fc.double({ min: -1, max: 1, noNaN: true }).map(Math.fround);

test('the server moves as lines 16 and 17 of Algorithm 1 say, whatever the ranges', async () => {
  const scenario = fc.integer({ min: 2, max: 40 }).chain((length) => {
    const vector = fc.array(number, { minLength: length, maxLength: length });
    const devices = fc.array(fc.record({ control: vector, weights: vector }), { minLength: 1, maxLength: 5 });
    const rounds = fc.array(devices, { minLength: 1, maxLength: 3 });
    const rate = fc.constantFrom(1, 0.5, 2);
    return fc.record({ base: vector, rounds, population: fc.integer({ min: 5, max: 9 }), rate });
  });
  await fc.assert(
    fc.asyncProperty(scenario, async ({ base, rounds, population, rate }) => {
      let x = [...base];
      let server = base.map(() => 0);
      let now: { next: number[]; server: number[]; statePath?: string } = { next: [...base], server };
      for (const [index, sent] of rounds.entries()) {
        const mean = (half: keyof Sent, at: number) =>
          sent.reduce((sum, one) => sum + (one[half][at] ?? 0), 0) / sent.length;
        x = x.map((value, at) => value + rate * mean('weights', at));
        server = server.map((value, at) => value + (sent.length / population) * mean('control', at));
        now = await step(
          now.next,
          sent,
          { stateShare: 1, updateShare: sent.length / population },
          {
            round: index + 1,
            ...(now.statePath === undefined ? {} : { statePath: now.statePath }),
            options: { serverLearningRate: rate },
            rangeParams: 8,
          },
        );
      }
      for (const [at, value] of x.entries()) expect(Math.abs((now.next[at] ?? 0) - value)).toBeLessThan(1e-5);
      for (const [at, value] of server.entries()) expect(Math.abs((now.server[at] ?? 0) - value)).toBeLessThan(1e-5);
    }),
    { numRuns: 25 },
  );
});

test('a control variate whose population grew shrinks, and one that starts over is zero', async () => {
  const sent = [{ control: [4, 8], weights: [1, 1] }];
  const first = await step([0, 0], sent, { stateShare: 1, updateShare: 0.5 }, { round: 1 });
  expect(first.server).toEqual([2, 4]);
  expect(first.controlNormL2).toBe(Math.sqrt(20));
  const grown = await step(
    [0, 0],
    sent,
    { stateShare: 0.5, updateShare: 0.25 },
    { round: 2, statePath: first.statePath },
  );
  expect(grown.server).toEqual([2, 4]);
  const over = await step([0, 0], sent, { stateShare: 0, updateShare: 0 }, { round: 2, statePath: first.statePath });
  expect(over.server).toEqual([0, 0]);
});

test('an update without its control half, shares out of range and weights in place of changes are refused', async () => {
  const layout = modelOf(4);
  const job: AggregationJob = {
    basePath: fileOf(layout, [0, 0, 0, 0]),
    updates: [{ path: fileOf(layout, [1, 1, 1, 1]), weight: 1 }],
    updateFormat: 'delta',
    strategy: 'scaffold',
    control: { stateShare: 1, updateShare: 1 },
    round: 1,
    outputPath: join(folder, 'out'),
    stateOutputPath: join(folder, 'out.state'),
  };
  await expect(aggregate(job)).rejects.toThrow(/update_rejected.*does not fit the model/);
  await expect(aggregate({ ...job, updateFormat: 'weights' })).rejects.toThrow(/invalid_input.*changes/);
  const { control: _, ...without } = job;
  await expect(aggregate(without)).rejects.toThrow(/invalid_input.*shares/);
  await expect(aggregate({ ...job, control: { stateShare: 1, updateShare: 1.5 } })).rejects.toThrow(/invalid_input/);
});

test('both halves of an update must be finite, and its norm is that of the weights', async () => {
  const layout = modelOf(150_001);
  const both = controlledUpdateLayout(layout);
  const zeros = (): number[] => new Array<number>(both.totalParams).fill(0);
  const job = { layout: both, measuredFrom: layout.totalParams };
  const sound = zeros();
  sound[7] = 1e6;
  sound[layout.totalParams + 5] = 3;
  sound[both.totalParams - 1] = 4;
  for (const at of [131_071, 131_072, 150_000]) sound[at] = 1e6;
  const measured = { normL2: expect.closeTo(5, 10), controlNormL2: expect.closeTo(2e6, 3) };
  expect(await validateUpdate({ ...job, path: fileOf(both, sound) })).toMatchObject(measured);
  expect(validateUpdateBytes(encodeFlat(both, Float32Array.from(sound)), both, layout.totalParams)).toMatchObject(
    measured,
  );
  expect((await validateUpdate({ layout: both, path: fileOf(both, sound) })).normL2).toBeGreaterThan(1e6);
  for (const at of [3, 149_999, 150_000, 150_001, both.totalParams - 1]) {
    const spoiled = zeros();
    spoiled[at] = Number.NaN;
    const name = at < layout.totalParams ? 'controlVariate' : 'weights';
    await expect(validateUpdate({ ...job, path: fileOf(both, spoiled) })).rejects.toThrow(
      new RegExp(`update_rejected.*NaN.*"${name}/`),
    );
  }
});
