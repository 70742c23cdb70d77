import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { ModelRegistry } from '../model-registry.js';
import { FakeBucket } from '../testing/fake-bucket.js';
import { FakeCoordinator } from '../testing/fake-coordinator.js';
import type { UploadTicket } from './push.js';

const MIB = 1024 * 1024;
const PART = 16 * MIB;
/** Five parts, the last of them short. */
const CONTENT = randomBytes(4 * PART + 17);

let coordinator: FakeCoordinator;
let bucket: FakeBucket;
let registry: ModelRegistry;
let bucketUrl: string;
beforeEach(async () => {
  coordinator = new FakeCoordinator();
  bucket = new FakeBucket();
  await Promise.all([coordinator.start(), bucket.start()]);
  bucketUrl = bucket.url;
  registry = new ModelRegistry({ apiKey: 'edg_t', apiBase: coordinator.apiBase, timing: coordinator.timing });
});
afterEach(async () => {
  await Promise.all([coordinator.stop(), bucket.stop()]);
});

const uploadUrl = () => `${coordinator.apiBase}/uploads/token`;
const begun = () =>
  coordinator.json(200, { upload_url: uploadUrl(), storage_key: 'k', part_size_bytes: PART, direct: true });
const signed = (numbers: readonly number[], more: Record<string, unknown> = {}, signature = 's') =>
  coordinator.json(200, {
    parts: numbers.map((number) => ({
      number,
      method: 'PUT',
      url: `${bucketUrl}/part-${number}?${signature}`,
      headers: { 'x-part': String(number) },
    })),
    received_parts: [1, 2, 3, 4, 5].filter((number) => !numbers.includes(number)),
    more: false,
    arrived: false,
    in_order: false,
    ...more,
  });
const confirmed = (status = 'draft') => coordinator.json(201, { version: '1.0.0', status });
const push = (more: Record<string, unknown> = {}) =>
  registry.uploadVersion({ modelId: 'm', content: new Blob([CONTENT]), fileName: 'm.bin', ...more });
const sentTo = () => coordinator.requests.map(({ method, path }) => `${method} ${path.replace('/api/v1', '')}`);
const kept = () => Buffer.concat([1, 2, 3, 4, 5].map((n) => bucket.parts.get(`/part-${n}?s`) ?? Buffer.alloc(0)));

test('parts go to the bucket several at a time, with its own headers and without the key; the answer waits for the check', async () => {
  begun();
  signed([1, 2, 3, 4, 5]);
  confirmed('validating');
  coordinator.json(200, { state: 'validating' }).json(200, { state: 'completed' });
  coordinator.json(200, { version: '1.0.0', status: 'draft' });
  const heard: number[] = [];
  const made = await push({ onProgress: (done: number) => heard.push(done) });
  expect(made.status).toBe('draft');
  expect(kept().equals(CONTENT)).toBe(true);
  expect(bucket.atOnce).toBe(4);
  expect(bucket.requests.every(({ headers }) => headers.authorization === undefined)).toBe(true);
  // They arrive in any order.
  expect(bucket.requests.map(({ headers }) => headers['x-part'])).toContain('1');
  expect(heard.at(-1)).toBe(CONTENT.length);
  expect(sentTo()).toEqual([
    'POST /models/m/versions/upload-url',
    'POST /uploads/token/direct',
    'POST /models/m/versions/confirm-upload',
    'GET /uploads/token',
    'GET /uploads/token',
    'GET /models/m/versions/1.0.0',
  ]);
});

test('a bucket that takes parts in order gets them one after the other; 308 is its yes to one that is not the last', async () => {
  begun();
  signed([1, 2, 3, 4, 5], { in_order: true });
  confirmed();
  bucket.answer = ({ path, body }, response) => {
    if (path.startsWith('/part-5')) return false;
    bucket.parts.set(path, body);
    response.writeHead(308).end();
    return true;
  };
  await push();
  expect(bucket.atOnce).toBe(1);
  expect(kept().equals(CONTENT)).toBe(true);
});

test('a file that is refused throws its reason; without waiting the version comes as it is', async () => {
  begun();
  signed([1, 2, 3, 4, 5]);
  confirmed('validating');
  coordinator.json(200, { state: 'rejected', code: 'corrupt_file', reason: 'the header cannot be read' });
  await expect(push()).rejects.toMatchObject({ code: 'corrupt_file', reason: 'the header cannot be read' });
  begun();
  signed([1, 2, 3, 4, 5]);
  confirmed('validating');
  await expect(push({ waitUntilChecked: false })).resolves.toMatchObject({ status: 'validating' });
});

test('a request that expired is asked for anew, and parts that are there are not sent again', async () => {
  begun();
  signed([1, 2, 3, 4, 5], {}, 'old');
  signed([4, 5]);
  confirmed();
  bucket.answer = ({ path }, response) => {
    if (path !== '/part-4?old' && path !== '/part-5?old') return false;
    response.writeHead(403).end('<Code>AccessDenied</Code>');
    return true;
  };
  await push();
  const again = bucket.requests.filter(({ path }) => path.endsWith('?s')).map(({ path }) => path);
  expect(again.sort()).toEqual(['/part-4?s', '/part-5?s']);
  expect(sentTo().filter((line) => line.endsWith('/direct'))).toHaveLength(2);
});

test('an upload of more parts than are signed at once asks for the rest', async () => {
  begun();
  signed([1, 2], { more: true, received_parts: [] });
  signed([3, 4, 5]);
  confirmed();
  await push();
  expect(kept().equals(CONTENT)).toBe(true);
});

test('an upload that was cut off goes on with what the bucket lacks, and one that arrived whole is confirmed', async () => {
  const resume: UploadTicket = { uploadUrl: uploadUrl(), storageKey: 'k', partSizeBytes: PART, direct: true };
  signed([3]);
  confirmed();
  await push({ resume });
  expect(bucket.requests.map(({ path }) => path)).toEqual(['/part-3?s']);
  signed([], { arrived: true });
  confirmed();
  await push({ resume });
  expect(bucket.requests).toHaveLength(1);
});

test('a broken connection is tried again with the same request', async () => {
  begun();
  signed([1, 2, 3, 4, 5]);
  confirmed();
  let broken = 0;
  bucket.answer = ({ path }, response) => {
    if (!path.startsWith('/part-2') || broken === 2) return false;
    broken += 1;
    if (broken === 1) response.destroy();
    else response.writeHead(503).end();
    return true;
  };
  await push();
  expect(kept().equals(CONTENT)).toBe(true);
  expect(bucket.requests.filter(({ path }) => path.startsWith('/part-2'))).toHaveLength(3);
});

test('a bucket that cannot be reached is tried once: the file goes to the coordinator, and so does the next', async () => {
  await bucket.stop();
  const parts = () => {
    for (let number = 1; number <= 5; number++) coordinator.json(200, { number });
  };
  begun();
  signed([1, 2, 3, 4, 5]);
  parts();
  confirmed();
  await push();
  begun();
  parts();
  confirmed();
  await push();
  expect(sentTo().filter((line) => line.endsWith('/direct'))).toHaveLength(1);
  expect(sentTo().filter((line) => line.includes('/parts/'))).toHaveLength(10);
  await bucket.start();
});

test('a bucket that refuses everything ends at the coordinator too', async () => {
  begun();
  bucket.answer = (_request, response) => {
    response.writeHead(403).end();
    return true;
  };
  signed([1, 2, 3, 4, 5]);
  signed([1, 2, 3, 4, 5]);
  for (let number = 1; number <= 5; number++) coordinator.json(200, { number });
  confirmed();
  await expect(push()).resolves.toMatchObject({ status: 'draft' });
});

test('a file of a megabyte goes there in one part, and to the coordinator whole', async () => {
  const content = new Blob([CONTENT.subarray(0, 2 * MIB)]);
  begun();
  signed([1], { received_parts: [] });
  confirmed();
  await push({ content });
  expect(bucket.parts.get('/part-1?s')).toHaveLength(2 * MIB);
  coordinator.json(200, { upload_url: uploadUrl(), storage_key: 'k', part_size_bytes: PART });
  coordinator.json(200, { size_bytes: 2 * MIB });
  confirmed();
  await push({ content });
  expect(sentTo().at(-2)).toBe('PUT /uploads/token');
});

test('cancelling stops it, and is no word against the bucket', async () => {
  begun();
  signed([1, 2, 3, 4, 5]);
  const stop = new AbortController();
  bucket.answer = () => {
    stop.abort();
    return true;
  };
  await expect(push({ signal: stop.signal })).rejects.toMatchObject({ code: 'cancelled' });
  expect(sentTo().filter((line) => line.includes('/parts/'))).toEqual([]);
});
