import { createHash, randomUUID } from 'node:crypto';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { readTorchZip } from '@octomil/shared/formats';
import { encodeModelDocument, initialWeights, modelDocument, parseArchitecture } from '@octomil/shared/models';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { FileObjectStore } from '@octomil/shared/storage';
import { encodeWeights } from '@octomil/shared/tensors';
import { sql } from 'kysely';
import type { OpenDatabase } from '../database/open-database.js';
import { type Jobs, openJobs } from '../jobs/index.js';
import { Registry } from '../models/index.js';
import { describeOnDatabases } from '../testing/databases.js';
import { type ConversionService, type ConversionSettings, createConversionService } from './conversion-service.js';
import { type Converter, parseConverters } from './converters.js';

const document = modelDocument(parseArchitecture('logistic'), 3);
const files = {
  safetensors: encodeWeights(initialWeights(document.architecture, 3, 1)),
  'model.json': encodeModelDocument(document),
};
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A program of the operator's: a line of JavaScript that knows `input`, `output` and `fs`. */
const converter = (to: string, code: string, fields: Partial<Converter> = {}): Converter => ({
  from: 'tensorflow',
  to,
  command: [
    process.execPath,
    '-e',
    `const [input, output] = process.argv.slice(1); const fs = require('fs'); ${code}`,
    '{input}',
    '{output}',
  ],
  timeoutMs: 20_000,
  maxOutputBytes: 1_000_000,
  ...fields,
});

describeOnDatabases('Conversions', (open) => {
  let database: OpenDatabase;
  let jobs: Jobs;
  let objects: FileObjectStore;
  let folder: string;
  let registry: Registry;
  let modelId: string;
  const started: ConversionService[] = [];
  const organizationId = randomUUID();

  beforeAll(async () => {
    database = await open();
    jobs = await openJobs({ database, logger: silentLogger });
    folder = await mkdtemp(join(tmpdir(), 'octomil-conversions-'));
    objects = await FileObjectStore.open({ folder: join(folder, 'store'), durable: false, clock: systemClock });
    registry = new Registry({ database, objects });
    await database.kysely.insertInto('organizations').values({ id: organizationId, name: organizationId }).execute();
  }, 240_000);
  afterAll(async () => {
    await objects.close();
    await jobs.close();
    await database.close();
    await rm(folder, { recursive: true });
  }, 180_000);
  beforeEach(async () => {
    modelId = (await registry.models.create(organizationId, { name: randomUUID() })).id;
  });
  afterEach(async () => {
    for (const service of started.splice(0)) await service.stop();
  });

  async function service(converters: readonly Converter[] = [], settings: Partial<ConversionSettings> = {}) {
    const made = createConversionService({
      database,
      jobs,
      objects,
      clock: systemClock,
      logger: silentLogger,
      settings: {
        coordinatorId: randomUUID(),
        workFolder: join(folder, 'work'),
        workFolderShared: true,
        converters,
        sweepEveryMs: 100,
        ...settings,
      },
    });
    started.push(made);
    return made;
  }

  async function version(contents: Readonly<Record<string, Uint8Array>> = files): Promise<string> {
    const artifacts = await Promise.all(
      Object.entries(contents).map(async ([format, bytes]) => {
        const object_key = `artifacts/${sha256(bytes)}`;
        await objects.put(object_key, bytes);
        return { format, file_name: format, object_key, sha256: sha256(bytes), size_bytes: bytes.length };
      }),
    );
    const row = await database.transact((transaction) =>
      registry.versions.create(
        {
          modelId,
          requestedVersion: null,
          status: 'draft',
          description: '',
          baseVersionId: null,
          checkpointId: null,
          sessionId: null,
          createdBy: null,
          lineage: {},
          metrics: {},
          artifacts,
        },
        transaction,
      ),
    );
    return row.id;
  }

  const ask = (made: ConversionService, versionId: string, formats: string[]) =>
    database.transact((transaction) => made.request(versionId, formats, transaction));
  const status = async (versionId: string) => {
    const query = database.kysely.selectFrom('versions').select('status').where('id', '=', versionId);
    return (await query.executeTakeFirstOrThrow()).status;
  };
  const rows = async (made: ConversionService, versionId: string) =>
    Object.fromEntries(((await made.statusOf([versionId])).get(versionId) ?? []).map((row) => [row.format, row]));

  async function until(what: () => Promise<boolean>): Promise<void> {
    const deadline = Date.now() + 20_000;
    while (!(await what())) {
      expect(Date.now()).toBeLessThan(deadline);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  }
  const ended = (made: ConversionService, versionId: string) =>
    until(async () => {
      const states = Object.values(await rows(made, versionId)).map(({ state }) => state);
      return states.every((state) => state === 'ready' || state === 'failed');
    });

  test('our model becomes ONNX and a state dict; the version is a draft once both are there', async () => {
    const made = await service();
    await made.start();
    const id = await version();
    await ask(made, id, ['onnx', 'pytorch', 'safetensors']);
    expect(['converting', 'draft']).toContain(await status(id));
    await until(async () => (await status(id)) === 'draft');
    expect(Object.keys(await rows(made, id)).sort()).toEqual(['onnx', 'pytorch']);
    const artifacts = await database.kysely.selectFrom('artifacts').selectAll().where('version_id', '=', id).execute();
    const torch = artifacts.find(({ format }) => format === 'pytorch');
    const bytes = await objects.readAll(torch?.object_key ?? '', 1_000_000);
    expect(torch).toMatchObject({ sha256: sha256(bytes), size_bytes: bytes.length, file_name: 'model.pt' });
    expect((await readTorchZip(bytes)).tensors.map((tensor) => tensor.name)).toEqual(['output/bias', 'output/kernel']);
    expect(artifacts.map(({ format }) => format)).toContain('onnx');
  }, 240_000);

  test('what nothing can make is refused at once, naming what can; nothing is stored', async () => {
    const made = await service([converter('tflite', '')]);
    const id = await version();
    await expect(ask(made, id, ['pytorch', 'coreml'])).rejects.toMatchObject({
      code: 'conversion_failed',
      details: { format: 'coreml', pairs: expect.arrayContaining([{ from: 'tensorflow', to: 'tflite' }]) },
    });
    expect(await rows(made, id)).toEqual({});
    expect(await status(id)).toBe('draft');
  });

  test("the operator's program gets a copy, a clean environment and an empty folder", async () => {
    const report = `fs.writeFileSync(output, JSON.stringify({ env: Object.keys(process.env).sort(), files: fs.readdirSync('.'), input: fs.readFileSync(input, 'utf8') })); fs.writeFileSync(input, 'spoiled')`;
    process.env['OCTOMIL_TEST_SECRET'] = 'secret';
    const made = await service([converter('tflite', report)]);
    await made.start();
    const id = await version({ tensorflow: Buffer.from('weights') });
    await ask(made, id, ['tflite']);
    await ended(made, id);
    delete process.env['OCTOMIL_TEST_SECRET'];
    expect((await rows(made, id))['tflite']).toMatchObject({ state: 'ready', reason: null });
    const { artifacts } = await registry.versions.get(modelId, '1');
    const artifact = artifacts.find(({ format }) => format === 'tflite');
    const said = JSON.parse(Buffer.from(await objects.readAll(artifact?.object_key ?? '', 10_000)).toString());
    expect(said).toEqual({ env: ['HOME', 'LANG', 'PATH', 'TMPDIR'], files: ['input.h5'], input: 'weights' });
    const original = artifacts.find(({ format }) => format === 'tensorflow');
    expect(Buffer.from(await objects.readAll(original?.object_key ?? '', 100)).toString()).toBe('weights');
    // The folder goes after the state is told.
    await made.stop();
    expect(await readdir(join(folder, 'work'))).toEqual([]);
  }, 240_000);

  test.each<[string, Converter, RegExp]>([
    [
      'that fails',
      converter('tflite', `console.error('no such op'); process.exit(3)`),
      /ended with code 3: no such op/,
    ],
    [
      'that never ends',
      converter('tflite', 'setInterval(() => 0, 1000)', { timeoutMs: 300 }),
      /did not end within 0.3/,
    ],
    [
      'that writes too much',
      converter('tflite', `fs.writeFileSync(output, 'x'.repeat(2000))`, { maxOutputBytes: 1000 }),
      /wrote more than 1000/,
    ],
    ['that writes nothing', converter('tflite', ''), /wrote no file/],
    [
      'that is not there',
      { ...converter('tflite', ''), command: ['/no/such/program', '{input}', '{output}'] },
      /could not be started/,
    ],
  ])(
    'a program %s leaves the version converting, with the reason; it can be dropped',
    async (_, broken, reason) => {
      const made = await service([broken]);
      await made.start();
      const id = await version({ tensorflow: Buffer.from('weights') });
      await ask(made, id, ['tflite']);
      await ended(made, id);
      const { tflite } = await rows(made, id);
      expect(tflite).toMatchObject({
        state: 'failed',
        reason_code: 'conversion_failed',
        reason: expect.stringMatching(reason),
      });
      expect(await status(id)).toBe('converting');
      await made.drop(id, 'tflite');
      expect(await status(id)).toBe('draft');
      await expect(made.drop(id, 'tflite')).rejects.toMatchObject({ code: 'not_found' });
    },
    240_000,
  );

  test('a failed conversion is tried again from the beginning', async () => {
    const flag = join(folder, randomUUID());
    const made = await service([
      converter('tflite', `if (!fs.existsSync('${flag}')) process.exit(1); fs.copyFileSync(input, output)`),
    ]);
    await made.start();
    const id = await version({ tensorflow: Buffer.from('weights') });
    await ask(made, id, ['tflite']);
    await ended(made, id);
    await writeFile(flag, '');
    await ask(made, id, ['tflite']);
    await until(async () => (await status(id)) === 'draft');
    expect((await rows(made, id))['tflite']).toMatchObject({ state: 'ready', attempt: 1, reason: null });
  }, 240_000);

  test('what a killed coordinator had begun is taken over; what kills three of them is given up', async () => {
    const id = await version();
    const made = await service();
    await ask(made, id, ['npz']);
    await sql`update conversions set state = 'running', owner = 'dead', owner_until = now() - interval '1 second',
        attempt = 1 where version_id = ${id}`.execute(database.kysely);
    await made.start();
    await until(async () => (await status(id)) === 'draft');
    expect((await rows(made, id))['npz']).toMatchObject({ state: 'ready', attempt: 2, owner: null });

    const other = await version();
    await ask(made, other, []);
    await sql`insert into conversions (version_id, format, state, owner, owner_until, attempt)
        values (${other}, 'npz', 'running', 'dead', now() - interval '1 second', 3)`.execute(database.kysely);
    await ended(made, other);
    expect((await rows(made, other))['npz']).toMatchObject({
      state: 'failed',
      reason: expect.stringContaining('3 processes'),
    });
  }, 240_000);

  test('one that lives is left alone, and a stop puts what is under way back into the line', async () => {
    const made = await service([converter('tflite', 'setInterval(() => 0, 1000)')], { ownerLeaseMs: 1_000 });
    await made.start();
    const id = await version({ tensorflow: Buffer.from('weights') });
    await ask(made, id, ['tflite']);
    await until(async () => (await rows(made, id))['tflite']?.state === 'running');
    const owner = (await rows(made, id))['tflite']?.owner;
    const other = await service([converter('tflite', 'fs.copyFileSync(input, output)')]);
    await other.start();
    // Longer than the lease, which the first renews.
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect((await rows(made, id))['tflite']).toMatchObject({ state: 'running', owner, attempt: 1 });
    await made.stop();
    await until(async () => (await status(id)) === 'draft');
  }, 240_000);

  test('two coordinators make each format once, and the last one flips the version', async () => {
    const [one, two] = [await service(), await service()];
    await Promise.all([one.start(), two.start()]);
    const ids = await Promise.all([version(), version(), version()]);
    await Promise.all(ids.map((id) => ask(one, id, ['onnx', 'pytorch', 'npz'])));
    for (const id of ids) await until(async () => (await status(id)) === 'draft');
    const attempts = await database.kysely
      .selectFrom('conversions')
      .select('attempt')
      .where('version_id', 'in', ids)
      .execute();
    expect(attempts.map(({ attempt }) => attempt)).toEqual(Array(9).fill(1));
  }, 240_000);

  describe('while the object store cannot be reached', () => {
    const unreachable = (times: number): { readonly looks: number[] } => {
      const looks: number[] = [];
      const original = objects.localFile.bind(objects);
      objects.localFile = (key) => {
        if (looks.length >= times) return original(key);
        looks.push(Date.now());
        return Promise.reject(new OctomilError('network_unavailable', 'the bucket did not answer'));
      };
      return { looks };
    };
    afterEach(() => {
      // Its own again, in place of the one above.
      delete (objects as Partial<FileObjectStore>).localFile;
    });

    test('a conversion waits longer each time, says why, and is made once it can be', async () => {
      const { looks } = unreachable(3);
      const made = await service([], { retryAfterMs: 200, sweepEveryMs: 20 });
      await made.start();
      const id = await version();
      await ask(made, id, ['npz']);
      await until(async () => (await rows(made, id))['npz']?.reason !== null);
      expect((await rows(made, id))['npz']).toMatchObject({ reason_code: 'network_unavailable', attempt: 0 });
      await until(async () => (await status(id)) === 'draft');
      expect((await rows(made, id))['npz']).toMatchObject({ state: 'ready', attempt: 1, reason: null });
      const [first = 0, second = 0, third = 0] = looks;
      expect(second - first).toBeGreaterThanOrEqual(200);
      expect(third - second).toBeGreaterThanOrEqual(400);
    }, 240_000);

    test('it is given up in the end, and tried at once when somebody asks again', async () => {
      const { looks } = unreachable(12);
      const made = await service([], { retryAfterMs: 0, sweepEveryMs: 20 });
      await made.start();
      const id = await version();
      await ask(made, id, ['npz']);
      await ended(made, id);
      expect((await rows(made, id))['npz']).toMatchObject({ state: 'failed', reason_code: 'network_unavailable' });
      expect(looks).toHaveLength(11);
      await made.stop();
      const patient = await service([], { retryAfterMs: 3_600_000, sweepEveryMs: 20 });
      await patient.start();
      await ask(patient, id, ['npz']);
      await until(async () => {
        const row = (await rows(patient, id))['npz'];
        return row?.state === 'pending' && row.reason !== null;
      });
      await ask(patient, id, ['npz']);
      await until(async () => (await status(id)) === 'draft');
    }, 240_000);
  });

  test('a published version keeps its state while formats are added to it', async () => {
    const made = await service();
    const id = await version();
    await registry.versions.publish(await registry.versions.get(modelId, '1'));
    await ask(made, id, ['npz']);
    expect(await status(id)).toBe('published');
    await made.start();
    await ended(made, id);
    expect(await status(id)).toBe('published');
  }, 240_000);

  test('an object that is gone, and a state dict that is none, are reasons', async () => {
    const made = await service();
    const id = await version({ pytorch: Buffer.from('PK no zip') });
    const gone = await version({
      safetensors: encodeWeights([{ name: randomUUID(), shape: [1], data: Float32Array.of(1) }]),
    });
    const { artifacts } = await registry.versions.get(modelId, '2');
    await objects.delete(artifacts[0]?.object_key ?? '');
    await ask(made, id, ['safetensors']);
    await ask(made, gone, ['pytorch']);
    await made.start();
    await ended(made, id);
    await ended(made, gone);
    expect((await rows(made, id))['safetensors']).toMatchObject({
      state: 'failed',
      reason: expect.stringContaining('no known format'),
    });
    expect((await rows(made, gone))['pytorch']).toMatchObject({ state: 'failed', reason_code: 'not_found' });
  }, 240_000);
});

test('every problem of the file of converters is named at once', () => {
  const one = { from: 'pytorch', to: 'tflite', command: ['convert', '{input}', '{output}'] };
  expect(parseConverters({ converters: [{ ...one, timeout_seconds: 5 }] }, 'c.yaml')).toEqual([
    { from: 'pytorch', to: 'tflite', command: one.command, timeoutMs: 5_000, maxOutputBytes: 4 * 1024 ** 3 },
  ]);
  const check = (content: unknown) => () => parseConverters(content, 'c.yaml');
  expect(check({ converters: [one, { ...one, command: ['x', '{input}'] }] })).toThrow(
    /2 settings are wrong.*is there twice.*has no \{output\}/,
  );
  expect(check({ converters: [{ from: 'pytorch' }] })).toThrow(/converters\/0/);
  expect(check('nonsense')).toThrow(/config_invalid/);
});
