import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { type Logger, silentLogger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import Fastify, { type FastifyInstance } from 'fastify';
import { sendArtifact } from './send-artifact.js';
import type { Artifact } from './version-store.js';

const SIZE = 8 * 1024 * 1024;
const artifact = { object_key: 'artifacts/a', format: 'onnx', sha256: 'a'.repeat(64), size_bytes: SIZE } as Artifact;

let folder: string;
let path: string;
let app: FastifyInstance;
let errors: [object, string][];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-send-artifact-'));
  path = join(folder, 'a');
  app = Fastify({ forceCloseConnections: true });
  errors = [];
});
afterEach(async () => {
  await app.close();
  await rm(folder, { recursive: true });
});

/** @returns the address of the file; `answered` resolves when its route is done */
async function serve(store: Partial<ObjectStore>): Promise<{ url: string; answered: Promise<void> }> {
  const objects = { stat: async () => ({ sizeBytes: SIZE }), ...store } as ObjectStore;
  const logger: Logger = { ...silentLogger, error: (fields, message) => errors.push([fields, message]) };
  const done = Promise.withResolvers<void>();
  app.get('/', async (request, reply) => {
    try {
      return await sendArtifact(request, reply, { objects, logger }, artifact, 'model.onnx');
    } finally {
      done.resolve();
    }
  });
  return { url: await app.listen({ host: '127.0.0.1', port: 0 }), answered: done.promise };
}

const inFolder = (): Partial<ObjectStore> => ({
  localFile: async () => ({ path, sizeBytes: SIZE, release: async () => undefined }),
});
const inBucket: Partial<ObjectStore> = {
  direct: {} as NonNullable<ObjectStore['direct']>,
  read: async function* () {
    yield Buffer.alloc(1000);
    throw new OctomilError('network_unavailable', 'the bucket hung up');
  },
};

test.each([
  ['a folder', inFolder, 'corrupt_file'],
  ['a bucket', () => inBucket, 'network_unavailable'],
] as const)('why a file of %s cannot be sent whole is in the log', async (_, store, code) => {
  await writeFile(path, Buffer.alloc(SIZE - 1));
  const { url } = await serve(store());
  const download = fetch(url).then((response) => response.arrayBuffer());
  await expect(download).rejects.toThrow(/terminated|fetch failed/);
  expect(errors).toEqual([
    [
      { objectKey: artifact.object_key, error: expect.objectContaining({ code }) },
      expect.stringMatching(/could not be sent/),
    ],
  ]);
});

test('of a receiver that leaves nothing is said', async () => {
  await writeFile(path, Buffer.alloc(SIZE));
  const { url, answered } = await serve(inFolder());
  const leaving = new AbortController();
  const response = await fetch(url, { signal: leaving.signal });
  await response.body?.getReader().read();
  leaving.abort();
  await answered;
  expect(errors).toEqual([]);
});
