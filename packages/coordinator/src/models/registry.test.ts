import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { modelDocument } from '@octomil/shared/models';
import { systemClock } from '@octomil/shared/runtime';
import { FileObjectStore } from '@octomil/shared/storage';
import type { OpenDatabase } from '../database/open-database.js';
import { describeOnDatabases } from '../testing/databases.js';
import type { VersionRequest } from '../training/ports.js';
import { Registry } from './registry.js';
import { nextVersion, parseVersion, parseVersionName } from './version-number.js';

const document = modelDocument({ name: 'logistic', output: { kind: 'binary' } }, 3);

describeOnDatabases('Registry', (open) => {
  let database: OpenDatabase;
  let objects: FileObjectStore;
  let folder: string;
  let registry: Registry;
  let modelId: string;
  const organizationId = randomUUID();

  beforeAll(async () => {
    database = await open();
    folder = await mkdtemp(join(tmpdir(), 'octomil-registry-'));
    objects = await FileObjectStore.open({ folder, durable: false, clock: systemClock });
    registry = new Registry({ database, objects });
    await database.kysely.insertInto('organizations').values({ id: organizationId, name: organizationId }).execute();
  }, 240_000);
  afterAll(async () => {
    await objects.close();
    await database.close();
    await rm(folder, { recursive: true });
  });
  beforeEach(async () => {
    modelId = (await registry.models.create(organizationId, { name: randomUUID() })).id;
  });

  const request = (fields: Partial<VersionRequest> = {}): VersionRequest => ({
    modelId,
    requestedVersion: null,
    baseVersionId: null,
    checkpoint: {
      id: randomUUID(),
      objectKey: `checkpoints/${'a'.repeat(64)}`,
      sha256: 'a'.repeat(64),
      sizeBytes: 7,
    },
    document,
    lineage: { strategy: 'fedavg' },
    metrics: { accuracy: 0.9 },
    publish: true,
    sessionId: randomUUID(),
    ...fields,
  });
  const create = (fields: Partial<VersionRequest> = {}) =>
    database.transact((transaction) => registry.createVersionFromCheckpoint(request(fields), transaction));

  test('versions number themselves; sequences have no holes under concurrency', async () => {
    const made = await Promise.all(Array.from({ length: 6 }, () => create()));
    expect(made.map(({ sequence }) => sequence).sort()).toEqual([1, 2, 3, 4, 5, 6]);
    expect(new Set(made.map(({ version }) => version)).size).toBe(6);
    const versions = await registry.versions.list(modelId);
    expect(versions.map(({ version }) => version)).toEqual(['1.5.0', '1.4.0', '1.3.0', '1.2.0', '1.1.0', '1.0.0']);
  });

  test('a training session makes one version, however often it says so', async () => {
    const sessionId = randomUUID();
    const made = await Promise.all([create({ sessionId }), create({ sessionId }), create({ sessionId })]);
    expect(new Set(made.map(({ versionId }) => versionId)).size).toBe(1);
    expect(await registry.versions.list(modelId)).toHaveLength(1);
  });

  test('a version that rolls back is not there, and its number is free', async () => {
    const failed = database.transact(async (transaction) => {
      await registry.createVersionFromCheckpoint(request(), transaction);
      throw new RangeError('the engine failed afterwards');
    });
    await expect(failed).rejects.toThrow('afterwards');
    expect(await create()).toMatchObject({ sequence: 1, version: '1.0.0' });
  });

  test('a requested version is taken once', async () => {
    expect(await create({ requestedVersion: '2.0.0' })).toMatchObject({ version: '2.0.0', sequence: 1 });
    await expect(create({ requestedVersion: 'v2.0.0' })).rejects.toMatchObject({ code: 'conflict' });
    await expect(create({ requestedVersion: 'two' })).rejects.toMatchObject({ code: 'invalid_input' });
    expect(await create()).toMatchObject({ version: '2.1.0', sequence: 2 });
  });

  test('a base is the newest published version, or the one named', async () => {
    expect(await registry.baseFor(modelId, undefined)).toBeUndefined();
    const first = await create();
    const draft = await create({ publish: false });
    const base = await registry.baseFor(modelId, undefined);
    expect(base).toMatchObject({
      versionId: first.versionId,
      document,
      weights: { sha256: 'a'.repeat(64), sizeBytes: 7 },
    });
    expect(await registry.baseFor(modelId, draft.version)).toMatchObject({ versionId: draft.versionId });
    expect(await registry.baseFor(modelId, '2')).toMatchObject({ versionId: draft.versionId });
    expect(await registry.baseFor(modelId, '9.9.9')).toBeUndefined();
  });

  test('published and deprecated; never back again', async () => {
    const { version } = await create({ publish: false });
    const draft = await registry.versions.get(modelId, version);
    expect(draft).toMatchObject({ status: 'draft', published_at: null });
    await registry.versions.publish(draft);
    await registry.versions.publish(draft);
    const published = await registry.versions.get(modelId, 'latest');
    expect(published.published_at).toBeInstanceOf(Date);
    await registry.versions.deprecate(published);
    const deprecated = await registry.versions.get(modelId, version);
    await expect(registry.versions.publish(deprecated)).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(registry.versions.get(modelId, 'latest')).rejects.toMatchObject({ code: 'version_not_found' });
  });

  test('the first architecture stays', async () => {
    await registry.setArchitecture(modelId, { name: 'logistic', output: { kind: 'binary' } }, 'num>0');
    await registry.setArchitecture(modelId, { name: 'logistic', output: { kind: 'regression' } }, 'other');
    expect(await registry.models.get(organizationId, modelId)).toMatchObject({
      architecture: { name: 'logistic', output: { kind: 'binary' } },
      target: 'num>0',
    });
  });
});

test('version numbers', () => {
  expect(nextVersion([])).toBe('1.0.0');
  expect(nextVersion(['1.0.0', '1.10.0', '1.9.3'])).toBe('1.11.0');
  expect(nextVersion(['2.0.0-rc.1', '1.4.0'])).toBe('2.0.0');
  expect(parseVersion('v1.2.3')).toBe('1.2.3');
  expect(() => parseVersion('1.2')).toThrow('semantic version');
  expect(parseVersionName('3')).toEqual({ sequence: 3 });
  expect(parseVersionName('1.0.0')).toEqual({ version: '1.0.0' });
  expect(parseVersionName('99999999999')).toEqual({ version: '99999999999' });
});
