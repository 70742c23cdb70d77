import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { listPersonalModels } from '@octomil/agent';
import { seededRandom } from '@octomil/shared/models';
import { decodeWeights } from '@octomil/shared/tensors';
import { type Fleet, startFleet } from '../fleet/fleet.js';

let fleet: Fleet;
let folder: string;

/** The same illness; each site's device reads `a` in its own way. */
async function siteData(name: string, scale: number, shift: number, seed: number): Promise<string> {
  const random = seededRandom(seed, 'rows');
  const rows = Array.from({ length: 120 }, () => {
    const a = random.normal();
    const b = random.normal();
    return `${scale * a + shift},${b},${a + 0.3 * b + 0.2 * random.normal() > 0 ? 1 : 0}`;
  });
  const path = join(folder, `${name}.csv`);
  await writeFile(path, ['a,b,ill', ...rows].join('\n'));
  return path;
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-personal-'));
  fleet = await startFleet({
    agents: [
      { name: 'north', dataSets: { default: await siteData('north', 1, 0, 1) } },
      { name: 'south', dataSets: { default: await siteData('south', 5, 12, 2) } },
    ],
  });
}, 240_000);
afterAll(async () => {
  await fleet?.stop();
  await rm(folder, { recursive: true, force: true });
}, 240_000);

const architecture = {
  name: 'layers',
  output: { kind: 'binary' },
  topology: {
    class_name: 'Sequential',
    config: {
      name: 'm',
      layers: [
        { class_name: 'BatchNormalization', config: { name: 'bn', momentum: 0.7, batch_input_shape: [null, 2] } },
        { class_name: 'Dense', config: { name: 'end', units: 1, activation: 'linear' } },
      ],
    },
  },
};

async function train(model: string, more: object) {
  await fleet.registry.ensureModel({ name: model });
  return fleet.federation().train({
    ...{ model, architecture, target: 'ill', rounds: 4, minUpdates: 2, seed: 3 },
    local: { epochs: 3, batchSize: 16, learningRate: 0.05 },
    ...more,
  });
}

test('FedBN: each site is normalized by itself, the version has what the coordinator began with, and all are better off', async () => {
  const plain = await train('plain', {});
  const personal = await train('personal', { personalization: 'fedbn' });
  expect(personal.metrics?.overall?.loss).toBeLessThan(0.7 * (plain.metrics?.overall?.loss ?? 0));
  const weights = decodeWeights((await fleet.registry.pullModel({ model: 'personal', format: 'safetensors' })).bytes);
  const norm = Object.fromEntries(
    weights.filter(({ name }) => name.startsWith('bn/')).map(({ name, data }) => [name, [...data]]),
  );
  expect(norm).toEqual({
    'bn/beta': [0, 0],
    'bn/gamma': [1, 1],
    'bn/moving_mean': [0, 0],
    'bn/moving_variance': [1, 1],
  });
  for (const name of ['north', 'south']) {
    const kept = await listPersonalModels(join(fleet.folder, 'agents', name, 'state'));
    expect(kept).toMatchObject([{ record: { method: 'fedbn', model: 'personal', current: { rounds: 4 } } }]);
  }
}, 300_000);

test("Ditto: the personal models' figures stand beside the global ones", async () => {
  const { rounds } = await train('second', { personalization: { method: 'ditto', lambda: 0.1 }, rounds: 2 });
  const details = rounds.filter(({ kind }) => kind === 'train').map((round) => round['details']) as Record<
    string,
    unknown
  >[];
  for (const detail of details) {
    expect(detail['personal']).toMatchObject({
      overall: { count: expect.any(Number) },
      sites: { north: {}, south: {} },
    });
  }
  expect(details[1]?.['training']).toMatchObject({ north: { personal_started_from: 'kept' } });
}, 300_000);

test('layers that there are not are named before anything starts', async () => {
  await expect(
    train('third', { personalization: { method: 'fedper', headLayers: ['dense_2'] } }),
  ).rejects.toMatchObject({
    code: 'invalid_input',
    message: expect.stringMatching(/names dense_2.*bn, end/),
  });
});
