import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { FileObjectStore, type ObjectStore } from '@octomil/shared/storage';
import type { Database } from '../database/database.js';
import { insertOrganization } from '../testing/enrolled-device.js';
import { openTestDatabase } from '../testing/index.js';
import { ArtifactObjects } from './artifact-objects.js';
import { DirectArtifacts } from './direct-artifacts.js';
import { Registry } from './registry.js';
import { until } from './testing/registry-client.js';

const ANNOUNCED_BYTES = 1000;

let folder: string;
let database: Database;
let files: FileObjectStore;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-direct-artifacts-'));
  files = await FileObjectStore.open({ folder, durable: false, clock: systemClock });
  database = await openTestDatabase();
});
afterEach(async () => {
  await database.close();
  await files.close();
  await rm(folder, { recursive: true });
});

test('an upload that was replaced by a larger one is refused before it is copied', async () => {
  const request = { method: 'PUT', url: 'http://bucket/', headers: {} } as const;
  const direct: NonNullable<ObjectStore['direct']> = {
    partMultipleBytes: 1,
    inOrder: false,
    begin: async (key) => ({ key, uploadId: 'u' }),
    presignPart: async () => request,
    presignGet: async () => request,
    received: async () => [],
    complete: async () => undefined,
    abort: async () => undefined,
  };
  let copies = 0;
  let incoming = '';
  const objects: ObjectStore = {
    direct,
    stat: (key) => files.stat(key),
    read: (key, range) => files.read(key, range),
    readAll: (key, maxBytes) => files.readAll(key, maxBytes),
    put: (key, source) => files.put(key, source),
    putFile: (key, path) => files.putFile(key, path),
    delete: (key) => files.delete(key),
    list: (prefix) => files.list(prefix),
    localFile: (key, maxBytes) => {
      copies += 1;
      return files.localFile(key, maxBytes);
    },
  };
  const registry = new Registry({ database, objects });
  const model = await registry.models.create(await insertOrganization(database), { name: randomUUID() });
  const shared = { database, objects, clock: systemClock, logger: silentLogger };
  const uploads = new DirectArtifacts({ ...shared, registry, artifacts: new ArtifactObjects(shared) });
  await uploads.start();
  try {
    const storageKey = `uploads/${model.id}/1.0.0/x/model.onnx`;
    await uploads.requests({
      storageKey,
      modelId: model.id,
      fileName: 'model.onnx',
      layout: { sizeBytes: ANNOUNCED_BYTES, partSizeBytes: ANNOUNCED_BYTES, partCount: 1 },
      expiresAt: new Date(Date.now() + 60_000),
    });
    const begun = await uploads.find(storageKey);
    if (begun === undefined) throw new Error('the upload was not begun');
    incoming = `incoming/${begun.id}`;
    await files.put(incoming, Buffer.alloc(ANNOUNCED_BYTES + 1));
    const asked = { version: '1.0.0', format: 'onnx', formats: [], description: '', createdBy: 'key:test' };
    await uploads.confirm(begun, asked);
    await until(async () => (await uploads.find(storageKey))?.state === 'abandoned');
    expect((await uploads.find(storageKey))?.problem).toMatchObject({
      code: 'transfer_incomplete',
      details: { received_bytes: ANNOUNCED_BYTES + 1, file_size: ANNOUNCED_BYTES },
    });
    expect(copies).toBe(0);
  } finally {
    await uploads.stop();
  }
  expect(await files.stat(incoming)).toBeUndefined();
}, 60_000);
