import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { selectBackend } from '@octomil/shared/compute';
import type { Dataset } from '@octomil/shared/features';
import { buildModel, setFlat } from '@octomil/shared/models';
import { decodeWeights, flatten, type NamedTensor } from '@octomil/shared/tensors';
import { evaluate } from '../evaluate.js';
import type { EvaluationMetrics } from '../metrics.js';
import { runTask } from '../run-task.js';
import { type RowMaker, SitesForTests } from '../testing/personal-sites.js';
import { loadPersonalModel } from './load-personal.js';
import {
  keepPersonal,
  listPersonal,
  readPersonalRecord,
  readPersonalTensors,
  removePersonal,
} from './personal-folder.js';
import type { Personalization } from './personalization.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'personal-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const dense = (name: string, units: number, activation: string, config = {}) => ({
  class_name: 'Dense',
  config: { name, units, activation, ...config },
});
const layers = (...list: object[]) => ({
  name: 'layers',
  output: { kind: 'binary' },
  topology: { class_name: 'Sequential', config: { name: 'm', layers: list } },
});
const batchNorm = { class_name: 'BatchNormalization', config: { name: 'bn', batch_input_shape: [null, 2] } };
const normalized = layers(
  batchNorm,
  dense('hidden', 6, 'tanh'),
  { class_name: 'LayerNormalization', config: { name: 'ln' } },
  dense('end', 1, 'linear'),
);
const two = layers(dense('body', 6, 'tanh', { batch_input_shape: [null, 2] }), dense('head', 1, 'linear'));

const FEDBN: Personalization = { method: 'fedbn' };
const FEDPER: Personalization = { method: 'fedper', headLayers: ['head'] };
const DITTO: Personalization = { method: 'ditto', lambda: 0.4 };

/** The same illness; one site's device reads `a` otherwise. */
const shifted =
  (scale: number, shift: number): RowMaker =>
  (random) => {
    const a = random.normal();
    const b = random.normal();
    return [scale * a + shift, b, a + 0.3 * b + 0.2 * random.normal() > 0 ? 1 : 0];
  };
/** The sites see alike and mean the opposite. */
const meaning =
  (sign: number): RowMaker =>
  (random) => {
    const a = random.normal();
    const b = random.normal();
    return [a, b, sign * (a - b) + 0.2 * random.normal() > 0 ? 1 : 0];
  };

const tensorsAt = async (path: string): Promise<Map<string, NamedTensor>> =>
  new Map(decodeWeights(await readFile(path)).map((tensor) => [tensor.name, tensor]));
const meanLoss = (all: readonly (EvaluationMetrics | null)[]): number =>
  all.reduce((sum, metrics) => sum + (metrics?.loss ?? Number.NaN), 0) / all.length;
const kept = async (path: string): Promise<Map<string, NamedTensor>> => {
  const record = await readPersonalRecord(path);
  const tensors = record === undefined ? [] : await readPersonalTensors(path, record.current);
  return new Map(tensors.map((tensor) => [tensor.name, tensor]));
};
const inputs = async (data: Dataset): Promise<Float32Array> => await data.readRange(0, data.rows);

test.each<[string, object, Personalization, RegExp]>([
  ['fedbn', normalized, FEDBN, /^(bn|ln)\//],
  ['fedper', two, FEDPER, /^head\//],
])(
  '%s: what stays is not in the uploaded file, in either format, and the site keeps it',
  async (name, model, method, local) => {
    const sites = await SitesForTests.make(join(folder, `stay-${name}`), model, [shifted(1, 0)]);
    const base = await tensorsAt(sites.basePath);
    const task = sites.task(0, 1, method);
    for (const updateFormat of ['delta', 'weights'] as const) {
      const { personalization } = await runTask({ ...task, updateFormat });
      const update = await tensorsAt(task.outputPath);
      const stayed = [...update.keys()].filter((tensor) => local.test(tensor));
      expect(personalization).toEqual({ method: method.method, stayed, startedFrom: 'base' });
      expect(stayed.length).toBeGreaterThan(1);
      for (const [tensor, { data }] of update) {
        const before = [...(base.get(tensor)?.data ?? [])];
        const unchanged = updateFormat === 'delta' ? before.map(() => 0) : before;
        if (local.test(tensor)) expect([...data]).toEqual(unchanged);
        else expect([...data]).not.toEqual(unchanged);
      }
      const own = await kept(sites.place(0, 1).path);
      expect([...own.keys()]).toEqual(stayed);
      for (const [tensor, { data }] of own) expect([...data]).not.toEqual([...(base.get(tensor)?.data ?? [])]);
    }
  },
);

test('fedbn: moving statistics are those of the site in float64, over two rounds, and evaluation uses them', async () => {
  const sites = await SitesForTests.make(join(folder, 'moving'), normalized, [shifted(3, 5), shifted(1, -4)]);
  const { train, heldOut } = await sites.rows(0);
  const x = await inputs(train);
  // One step over all rows: the batch statistics are those of the rows.
  const options = { epochs: 1, batchSize: train.rows };
  const moments = [0, 1].map((column) => {
    const values = Array.from({ length: train.rows }, (_, row) => x[row * 2 + column] ?? 0);
    const mean = values.reduce((sum, value) => sum + value, 0) / train.rows;
    return { mean, variance: values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / train.rows };
  });
  await sites.round(1, FEDBN, options);
  const again = await runTask(sites.task(0, 2, FEDBN, options));
  expect(again.personalization).toMatchObject({ startedFrom: 'kept' });
  const own = await kept(sites.place(0, 1).path);
  moments.forEach(({ mean, variance }, column) => {
    expect(own.get('bn/moving_mean')?.data[column]).toBeCloseTo(mean * (1 - 0.99 ** 2), 5);
    const moved = 0.99 ** 2 + variance * (1 - 0.99 ** 2);
    expect(own.get('bn/moving_variance')?.data[column]).toBeCloseTo(moved, 5);
  });
  // The coordinator's statistics have stayed as they were.
  expect([...((await tensorsAt(sites.basePath)).get('bn/moving_mean')?.data ?? [])]).toEqual([0, 0]);

  const mixed = (await sites.base()).map((tensor) => own.get(tensor.name) ?? tensor);
  const built = await buildModel(await selectBackend(), sites.architecture, 2);
  setFlat(built, flatten(mixed));
  const expected = await evaluate(built, sites.architecture.output, heldOut);
  built.dispose();
  expect((await sites.evaluations(FEDBN))[0]).toEqual(expected);
  // Whatever its number: an evaluation is of the newest part.
  expect((await sites.evaluations(FEDBN, 2))[0]).toEqual(expected);
  expect((await runTask(sites.task(0, 3, FEDBN, options))).evaluation).toEqual(expected);
  expect((await sites.evaluations(undefined))[0]).not.toEqual(expected);
});

test('fedbn beats one normalization for all where devices measure otherwise', async () => {
  const makers = [shifted(1, 0), shifted(4, 10), shifted(0.3, -6)];
  const sites = await SitesForTests.make(
    join(folder, 'fedbn'),
    layers({ ...batchNorm, config: { ...batchNorm.config, momentum: 0.7 } }, dense('end', 1, 'linear')),
    makers,
  );
  const after = async (method: Personalization | undefined): Promise<number> => {
    await sites.restart();
    for (let round = 1; round <= 5; round++) await sites.round(round, method);
    return meanLoss(await sites.evaluations(method));
  };
  const plain = await after(undefined);
  expect(await after(FEDBN)).toBeLessThan(0.6 * plain);
});

test('fedper beats one head for all where sites mean different things', async () => {
  const sites = await SitesForTests.make(join(folder, 'fedper'), two, [meaning(1), meaning(-1)]);
  const after = async (method: Personalization | undefined): Promise<number> => {
    await sites.restart();
    for (let round = 1; round <= 5; round++) await sites.round(round, method);
    return meanLoss(await sites.evaluations(method));
  };
  const plain = await after(undefined);
  expect(plain).toBeGreaterThan(0.6);
  expect(await after(FEDPER)).toBeLessThan(0.6 * plain);
});

test('ditto: two rounds of the personal model are the closed form in float64; the global update is as without it', async () => {
  const sites = await SitesForTests.make(join(folder, 'ditto-numbers'), 'logistic', [meaning(1), meaning(-1)]);
  const { train } = await sites.rows(0);
  const x = await inputs(train);
  const options = { epochs: 2, batchSize: train.rows, optimizer: 'sgd', learningRate: 0.3 } as const;
  const method: Personalization = { method: 'ditto', lambda: 0.4, epochs: 3, learningRate: 0.2 };
  let personal: number[] | undefined;
  for (let round = 1; round <= 2; round++) {
    const global = [...flatten(await sites.base())];
    let v = personal ?? global;
    for (let step = 0; step < 3; step++) {
      const gradient = v.map((value, index) => 0.4 * (value - (global[index] ?? 0)));
      for (let row = 0; row < train.rows; row++) {
        const point = [1, x[row * 2] ?? 0, x[row * 2 + 1] ?? 0];
        const logit = point.reduce((sum, value, index) => sum + value * (v[index] ?? 0), 0);
        const residual = 1 / (1 + Math.exp(-logit)) - (train.y[row] ?? 0);
        point.forEach((value, index) => {
          gradient[index] = (gradient[index] ?? 0) + (residual * value) / train.rows;
        });
      }
      v = v.map((value, index) => value - 0.2 * (gradient[index] ?? 0));
    }
    personal = v;
    const plain = await runTask(sites.task(0, round, undefined, options));
    const [result] = await sites.round(round, method, options);
    expect(result?.update.sha256).toBe(plain.update.sha256);
    expect(result?.steps).toBe(plain.steps);
    expect(result?.evaluation).toEqual(plain.evaluation);
    expect(result?.personalization).toEqual({
      method: 'ditto',
      stayed: [],
      startedFrom: round === 1 ? 'base' : 'kept',
    });
    const own = flatten([...(await kept(sites.place(0, 1).path)).values()]);
    personal.forEach((expected, index) => {
      expect(Math.abs((own[index] ?? Number.NaN) - expected)).toBeLessThan(2e-6);
    });
  }
});

test("ditto's personal model suits its site where sites mean different things, and λ draws it to the global one", async () => {
  const sites = await SitesForTests.make(join(folder, 'ditto'), two, [meaning(1), meaning(-1)]);
  const after = async (lambda: number) => {
    await sites.restart();
    for (const site of [0, 1]) await rm(sites.place(site, 0).path, { recursive: true, force: true });
    for (let round = 1; round <= 3; round++) await sites.round(round, { method: 'ditto', lambda });
    const results = await sites.round(4, { method: 'ditto', lambda });
    return {
      global: meanLoss(results.map(({ evaluation }) => evaluation)),
      personal: meanLoss(results.map(({ personal }) => personal ?? null)),
    };
  };
  const loose = await after(0.1);
  const tight = await after(100);
  expect(loose.personal).toBeLessThan(0.5 * loose.global);
  expect(tight.global).toBe(loose.global);
  expect(tight.personal).toBeGreaterThan(2 * loose.personal);
});

test('metrics of a personal model on fewer than 10 held-out rows are not given', async () => {
  const sites = await SitesForTests.make(join(folder, 'few'), 'logistic', [shifted(1, 0)], 30);
  const few = await sites.rows(0);
  expect(few.heldOut.rows).toBeLessThan(10);
  const result = await runTask(sites.task(0, 1, DITTO));
  expect(result).toMatchObject({ evaluation: null, personal: null });
});

test('early stop is refused where fewer than 10 rows are held out', async () => {
  const sites = await SitesForTests.make(join(folder, 'few-stop'), 'logistic', [shifted(1, 0)], 30);
  const task = sites.task(0, 1, undefined, { earlyStop: { patience: 2, minDelta: 0 } });
  await expect(runTask(task)).rejects.toMatchObject({ code: 'too_few_rows' });
});

test.each<[string, object | string, Personalization]>([
  ['fedbn', normalized, FEDBN],
  ['ditto', 'logistic', DITTO],
])('%s: a round that is done again gives the same bytes and the same personal part', async (name, model, method) => {
  const sites = await SitesForTests.make(join(folder, `again-${name}`), model, [shifted(2, 1)]);
  const { path } = sites.place(0, 1);
  await sites.round(1, method);
  const task = sites.task(0, 2, method);
  const first = await runTask(task);
  const record = await readFile(join(path, 'personal.json'), 'utf8');
  expect((await runTask(task)).update.sha256).toBe(first.update.sha256);
  expect(await readFile(join(path, 'personal.json'), 'utf8')).toBe(record);
  expect(await readPersonalRecord(path)).toMatchObject({
    current: { rounds: 2, roundNumber: 2 },
    previous: { rounds: 1 },
  });
  // The state before the one before is gone.
  expect((await readdir(path)).length).toBe(4);
});

test('beyond the limit a further part is refused before the work, and those that there are go on', async () => {
  const place = join(folder, 'limited');
  const sites = await SitesForTests.make(place, 'logistic', [meaning(1), meaning(-1)]);
  await sites.round(1, DITTO);
  const [kept] = await listPersonal(place);
  const train = (path: string, limit: { parts: number; bytes: number }) => {
    const task = sites.task(0, 2, DITTO);
    const personal = { ...sites.place(0, 2), path: join(place, path), limit: { ...limit, advice: 'make room' } };
    return runTask({ ...task, personal });
  };
  const plenty = { parts: 9, bytes: 1e9 };
  await train('personal-0', { parts: 2, bytes: 1 });
  const refused = { code: 'insufficient_storage' };
  await expect(train('more', { ...plenty, parts: 2 })).rejects.toMatchObject({
    ...refused,
    reason: 'this site keeps 2 personal parts of models, and 2 are the most; make room',
  });
  await expect(train('more', { ...plenty, bytes: kept?.sizeBytes ?? 0 })).rejects.toMatchObject({
    ...refused,
    reason: expect.stringMatching(/keeps \d+ bytes of personal parts of models, and \d+ bytes are the most; make room/),
  });
  await train('more', plenty);
  expect(await listPersonal(place)).toHaveLength(3);
});

test('what is kept is for its owner alone, listed, and removed by name', async () => {
  const place = join(folder, 'listing');
  const sites = await SitesForTests.make(place, 'logistic', [meaning(1)]);
  await sites.round(1, DITTO);
  const { path } = sites.place(0, 1);
  if (process.platform !== 'win32') {
    expect((await stat(path)).mode & 0o777).toBe(0o700);
    for (const name of await readdir(path)) expect((await stat(join(path, name))).mode & 0o777).toBe(0o600);
  }
  expect(await listPersonal(place)).toMatchObject([
    { id: 'personal-0', record: { method: 'ditto', federation: 'hospitals', model: 'm', dataSet: 'default' } },
  ]);
  await expect(removePersonal(place, '../listing')).rejects.toThrow(/there are personal-0/);
  await removePersonal(place, 'personal-0');
  expect(await listPersonal(place)).toEqual([]);
});

test.each<[string, (path: string) => Promise<void>, RegExp]>([
  [
    'cut',
    async (path) => {
      const name = (await readdir(path)).find((file) => file.endsWith('.safetensors')) ?? '';
      await truncate(join(path, name), 40);
    },
    /damaged or lost/,
  ],
  [
    'changed',
    async (path) => {
      const name = join(path, (await readdir(path)).find((file) => file.endsWith('.safetensors')) ?? '');
      const bytes = await readFile(name);
      bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
      await writeFile(name, bytes);
    },
    /damaged or lost/,
  ],
  ['half a record', (path) => truncate(join(path, 'personal.json'), 20), /damaged or lost/],
  [
    'of another architecture',
    async (path) => {
      const record = JSON.parse(await readFile(join(path, 'personal.json'), 'utf8')) as object;
      await writeFile(join(path, 'personal.json'), JSON.stringify({ ...record, modelSha256: '0'.repeat(64) }));
    },
    /another architecture/,
  ],
])('a personal part that is %s: the round starts from the base and says so', async (name, spoil, reason) => {
  const sites = await SitesForTests.make(join(folder, `spoilt-${name}`), two, [meaning(1)]);
  await sites.round(1, FEDPER);
  await spoil(sites.place(0, 1).path);
  const result = await runTask(sites.task(0, 2, FEDPER));
  expect(result.personalization).toMatchObject({ startedFrom: 'base', reason: expect.stringMatching(reason) });
  const next = await runTask(sites.task(0, 3, FEDPER));
  expect(next.personalization).toEqual({ method: 'fedper', stayed: ['head/bias', 'head/kernel'], startedFrom: 'kept' });
});

test('another head than before starts from the base', async () => {
  const sites = await SitesForTests.make(join(folder, 'heads'), two, [meaning(1)]);
  await sites.round(1, FEDPER);
  const result = await runTask(sites.task(0, 2, { method: 'fedper', headLayers: ['body'] }));
  expect(result.personalization).toMatchObject({ startedFrom: 'base', reason: expect.stringMatching(/head/) });
});

test('a personal model without its model.json is damaged, and says so', async () => {
  const place = { federation: 'f', model: 'm', dataSet: 'd', sessionId: 's', roundNumber: 1 };
  const path = join(folder, 'no-document');
  const tensors = [{ name: 'w', shape: [1], data: Float32Array.of(1) }];
  const identity = { method: 'ditto', modelSha256: 'a'.repeat(64), tensors } as const;
  await keepPersonal({ ...place, path }, identity, undefined, tensors, Buffer.from('{}'));
  expect((await loadPersonalModel(path)).tensors).toEqual(tensors);
  await rm(join(path, 'model.json'));
  await expect(loadPersonalModel(path)).rejects.toMatchObject({ code: 'corrupt_file' });
});
