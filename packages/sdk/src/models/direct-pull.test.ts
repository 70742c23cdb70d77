import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { ModelRegistry } from '../model-registry.js';
import { type BucketRequest, FakeBucket } from '../testing/fake-bucket.js';
import { FakeCoordinator } from '../testing/fake-coordinator.js';

const CONTENT = randomBytes(300_000);
const DIGEST = createHash('sha256').update(CONTENT).digest('hex');

let coordinator: FakeCoordinator;
let bucket: FakeBucket;
let bucketUrl: string;
let registry: ModelRegistry;
let folder: string;
beforeEach(async () => {
  coordinator = new FakeCoordinator();
  bucket = new FakeBucket();
  await Promise.all([coordinator.start(), bucket.start()]);
  bucketUrl = bucket.url;
  bucket.answer = (request, response) => give(request, response);
  registry = new ModelRegistry({ apiKey: 'edg_t', apiBase: coordinator.apiBase, timing: coordinator.timing });
  folder = await mkdtemp(join(tmpdir(), 'octomil-direct-pull-'));
});
afterEach(async () => {
  await Promise.all([coordinator.stop(), bucket.stop()]);
  await rm(folder, { recursive: true });
});

function give({ headers }: BucketRequest, response: ServerResponse, content = CONTENT): boolean {
  const from = Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? 0);
  response.writeHead(from > 0 ? 206 : 200, { 'content-length': content.length - from }).end(content.subarray(from));
  return true;
}

const facts = () => ({ etag: `"${DIGEST}"`, 'x-model-hash': `sha256:${DIGEST}` });
/** The coordinator's word that the bytes are in the bucket. */
const elsewhere = () =>
  coordinator.json(200, { direct: true }, { ...facts(), 'x-octomil-direct': '1', 'x-octomil-size': '300000' });
const address = (signature: string) =>
  coordinator.json(200, { url: `${bucketUrl}/object?${signature}`, direct: true, checksum: DIGEST });
const here = () =>
  coordinator.next((request, response) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    response.writeHead(from > 0 ? 206 : 200, { ...facts(), 'content-length': CONTENT.length - from });
    response.end(CONTENT.subarray(from));
  });
const pull = () => registry.pullModelToPath({ model: 'heart', path: join(folder, 'heart') });
const whole = async () => (await readFile(join(folder, 'heart'))).equals(CONTENT);
const asked = () => coordinator.requests.map(({ path }) => path.replace(/^.*\/(download)/, '$1').replace(/\?.*$/, ''));

test('a pull takes the bytes from the bucket, without the key', async () => {
  elsewhere();
  address('one');
  await expect(pull()).resolves.toMatchObject({ digest: DIGEST });
  expect(await whole()).toBe(true);
  expect(asked()).toEqual(['download', 'download-url']);
  expect(bucket.requests[0]?.headers.authorization).toBeUndefined();
});

test('a large file comes in pieces that are read at once, by one address while the bucket takes it', async () => {
  const large = randomBytes(20 * 2 ** 20);
  const digest = createHash('sha256').update(large).digest('hex');
  const word = { etag: `"${digest}"`, 'x-model-hash': `sha256:${digest}`, 'x-octomil-direct': '1' };
  bucket.answer = ({ headers, path }, response) => {
    const [, from = '', to = ''] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '') ?? [];
    if (path.endsWith('?one') && Number(from) > 2 ** 24 - 1) response.writeHead(403).end();
    else response.writeHead(206).end(large.subarray(Number(from), to === '' ? undefined : Number(to) + 1));
    return true;
  };
  coordinator.json(200, { direct: true }, { ...word, 'x-octomil-size': String(large.length) });
  for (const signature of ['one', 'two']) {
    coordinator.json(200, { url: `${bucketUrl}/object?${signature}`, direct: true, checksum: digest });
  }
  await expect(pull()).resolves.toMatchObject({ digest, sizeBytes: large.length });
  expect(bucket.requests.map(({ path, headers }) => [path, headers.range])).toEqual([
    ['/object?one', 'bytes=0-8388607'],
    ['/object?one', 'bytes=8388608-16777215'],
    ['/object?one', 'bytes=16777216-'],
    ['/object?two', 'bytes=16777216-'],
  ]);
});

test('an address that expires mid-way is asked for anew, and the pull goes on where it was', async () => {
  bucket.answer = (request, response) => {
    if (request.path !== '/object?one') return give(request, response);
    if (bucket.requests.length > 1) {
      response.writeHead(403).end();
      return true;
    }
    response.writeHead(200, { 'content-length': CONTENT.length });
    response.write(CONTENT.subarray(0, 120_000), () => setTimeout(() => response.destroy(), 100));
    return true;
  };
  elsewhere();
  address('one');
  // Still the old one: the bucket takes it no longer.
  address('one');
  address('two');
  await pull();
  expect(await whole()).toBe(true);
  expect(asked()).toEqual(['download', 'download-url', 'download-url', 'download-url']);
  const ranges = bucket.requests.map(({ path, headers }) => [path, headers.range]);
  expect(ranges).toEqual([
    ['/object?one', undefined],
    ['/object?one', expect.stringMatching(/^bytes=[1-9]\d*-$/)],
    ['/object?two', ranges[1]?.[1]],
  ]);
});

test('a bucket that cannot be reached is tried once: this pull and the next come from the coordinator', async () => {
  await bucket.stop();
  elsewhere();
  address('one');
  here();
  await pull();
  expect(await whole()).toBe(true);
  here();
  await registry.pullModelToPath({ model: 'heart', path: join(folder, 'again') });
  expect(asked()).toEqual(['download', 'download-url', 'download', 'download']);
  expect(coordinator.requests[3]?.headers['x-octomil-accept-direct']).toBeUndefined();
  await bucket.start();
});

test('a bucket that breaks off is left for the coordinator with what has arrived', async () => {
  bucket.answer = (_request, response) => {
    if (bucket.requests.length > 1) {
      response.destroy();
      return true;
    }
    response.writeHead(200, { 'content-length': CONTENT.length });
    response.write(CONTENT.subarray(0, 120_000), () => setTimeout(() => response.destroy(), 100));
    return true;
  };
  elsewhere();
  address('one');
  address('two');
  here();
  await pull();
  expect(await whole()).toBe(true);
  expect(coordinator.requests.at(-1)?.headers.range).toMatch(/^bytes=[1-9]\d*-$/);
});

test('wrong bytes in the bucket never get the name, and are not kept', async () => {
  const wrong = Buffer.from(CONTENT);
  wrong[7] = (wrong[7] ?? 0) ^ 1;
  bucket.answer = (request, response) => give(request, response, wrong);
  elsewhere();
  address('one');
  await expect(pull()).rejects.toMatchObject({ code: 'checksum_mismatch' });
  expect(await readdir(folder)).toEqual([]);
});

test('an address of another file is not used', async () => {
  elsewhere();
  coordinator.json(200, { url: `${bucketUrl}/object?one`, direct: true, checksum: '0'.repeat(64) });
  here();
  await pull();
  expect(await whole()).toBe(true);
  expect(bucket.requests).toEqual([]);
});
