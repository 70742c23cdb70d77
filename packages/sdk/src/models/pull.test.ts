import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { ModelRegistry } from '../model-registry.js';
import { FakeCoordinator } from '../testing/fake-coordinator.js';

const CONTENT = randomBytes(300_000);
const DIGEST = createHash('sha256').update(CONTENT).digest('hex');

let coordinator: FakeCoordinator;
let registry: ModelRegistry;
let folder: string;
/** Breaks the connection at hand once the client has all that comes over it. */
let breakAt: { readonly bytes: number; readonly response: ServerResponse } | undefined;
beforeEach(async () => {
  breakAt = undefined;
  coordinator = new FakeCoordinator();
  await coordinator.start();
  registry = new ModelRegistry({ apiKey: 'edg_t', apiBase: coordinator.apiBase, timing: coordinator.timing });
  folder = await mkdtemp(join(tmpdir(), 'octomil-pull-'));
});
afterEach(async () => {
  await coordinator.stop();
  await rm(folder, { recursive: true });
});

/** Answers as the registry does: a range of the content where one is asked for; no more than `cutAt` bytes of it arrive. */
function serve(cutAt?: number, digest = DIGEST): void {
  coordinator.next((request, response: ServerResponse) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    response.writeHead(from > 0 ? 206 : 200, {
      etag: `"${digest}"`,
      'x-model-hash': `sha256:${digest}`,
      'content-length': CONTENT.length - from,
      'content-disposition': 'attachment; filename="heart-1.0.0.onnx"',
    });
    if (cutAt === undefined) response.end(CONTENT.subarray(from));
    else if (from < cutAt) {
      // What a broken connection had delivered and nobody had read yet would be lost.
      breakAt = { bytes: cutAt, response };
      response.write(CONTENT.subarray(from, cutAt));
    } else {
      response.flushHeaders();
      setTimeout(() => response.destroy(), 50);
    }
  });
}

const pull = (path = join(folder, 'heart.onnx')) =>
  registry.pullModelToPath({
    model: 'heart',
    path,
    onProgress: (bytesDone) => {
      if (bytesDone === breakAt?.bytes) breakAt.response.destroy();
    },
  });

test('a pull goes on after the connection broke, with what has arrived', async () => {
  serve(100_000);
  serve(200_000);
  serve();
  await expect(pull()).resolves.toEqual({
    path: join(folder, 'heart.onnx'),
    digest: DIGEST,
    sizeBytes: CONTENT.length,
  });
  expect((await readFile(join(folder, 'heart.onnx'))).equals(CONTENT)).toBe(true);
  expect(await readdir(folder)).toEqual(['heart.onnx']);
  const starts = coordinator.requests.map(({ headers }) => headers.range);
  expect(starts).toEqual([undefined, 'bytes=100000-', 'bytes=200000-']);
  expect(coordinator.requests[1]?.headers['if-range']).toBe(`"${DIGEST}"`);
});

test('the next pull of the same content takes up what an earlier one left', async () => {
  await writeFile(join(folder, `heart.onnx.${DIGEST.slice(0, 16)}.part`), CONTENT.subarray(0, 123_456));
  serve();
  serve();
  await pull();
  expect(coordinator.requests[1]?.headers.range).toBe('bytes=123456-');
  expect((await readFile(join(folder, 'heart.onnx'))).equals(CONTENT)).toBe(true);
});

test('a leftover that is all there is checked, and not asked for again', async () => {
  await writeFile(join(folder, `heart.onnx.${DIGEST.slice(0, 16)}.part`), CONTENT);
  serve();
  await pull();
  expect(coordinator.requests).toHaveLength(1);
  expect(await readdir(folder)).toEqual(['heart.onnx']);
});

test('a folder takes the file under its own name', async () => {
  serve();
  await expect(pull(folder)).resolves.toMatchObject({ path: join(folder, 'heart-1.0.0.onnx') });
});

test('wrong bytes never get the name, and are not kept', async () => {
  await writeFile(join(folder, 'heart.onnx'), 'what was there before');
  serve(undefined, '0'.repeat(64));
  await expect(pull()).rejects.toMatchObject({ code: 'checksum_mismatch' });
  expect(await readdir(folder)).toEqual(['heart.onnx']);
  expect(await readFile(join(folder, 'heart.onnx'), 'utf8')).toBe('what was there before');
});

test('gives up after connections that bring nothing, and keeps what has arrived', async () => {
  // More than it takes.
  for (let time = 0; time < 30; time += 1) serve(100_000);
  await expect(pull()).rejects.toMatchObject({ code: 'download_failed' });
  const part = `heart.onnx.${DIGEST.slice(0, 16)}.part`;
  expect(await readdir(folder)).toEqual([part]);
  expect((await readFile(join(folder, part))).equals(CONTENT.subarray(0, 100_000))).toBe(true);
});

test('says where it cannot write', async () => {
  serve();
  await expect(pull(join(folder, 'none', 'x'))).rejects.toMatchObject({
    code: 'invalid_input',
    reason: expect.stringContaining('ENOENT'),
  });
});

test('what a server calls a digest leads to no other folder', async () => {
  serve(undefined, '/../../escaped');
  await pull();
  expect(await readdir(folder)).toEqual(['heart.onnx']);
});

test('all of the bytes are written where each write takes a part only', async () => {
  const file = await open(join(folder, 'any'), 'w');
  const handle = Object.getPrototypeOf(file) as typeof file;
  await file.close();
  const write = handle.write as (...given: unknown[]) => Promise<unknown>;
  handle.write = function (this: unknown, bytes: unknown, start: number, length: number, position: number) {
    return write.call(this, bytes, start, Math.min(length, 7_000), position);
  } as typeof handle.write;
  try {
    serve();
    await pull();
  } finally {
    handle.write = write as typeof handle.write;
  }
  expect((await readFile(join(folder, 'heart.onnx'))).equals(CONTENT)).toBe(true);
});

test('no more is written than there was to be', async () => {
  coordinator.next((_request, response) => {
    response.writeHead(200, { etag: `"${DIGEST}"`, 'x-model-hash': DIGEST, 'x-octomil-size': 1_000 }).end(CONTENT);
  });
  await expect(pull()).rejects.toMatchObject({ code: 'download_failed' });
  const [part = ''] = await readdir(folder);
  expect((await readFile(join(folder, part))).length).toBeLessThanOrEqual(1_000);
});
