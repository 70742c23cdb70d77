import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { openGcsClient } from './gcs-client.js';
import type { BucketClient } from './index.js';

const MIB = 1024 * 1024;
const SILENCE_MS = 800;

let server: Server;
let client: BucketClient;
let requests: { request: IncomingMessage; response: ServerResponse; body: Buffer[] }[];
/** How the server reads what comes; it answers when that is done. */
let read: (request: IncomingMessage, body: Buffer[]) => Promise<unknown>;

beforeEach(async () => {
  requests = [];
  server = createServer((request, response) => {
    const body: Buffer[] = [];
    requests.push({ request, response, body });
    read(request, body).then(
      () => response.writeHead(200, { 'content-type': 'application/json' }).end('{}'),
      () => response.destroy(),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  client = await clientWith(SILENCE_MS);
});

function clientWith(silenceMs: number): Promise<BucketClient> {
  const environment = { STORAGE_EMULATOR_HOST: `127.0.0.1:${(server.address() as AddressInfo).port}` };
  return openGcsClient({ bucket: 'bucket', environment, purpose: 'store', silenceMs });
}

afterEach(async () => {
  await client.close();
  // Answered after all: without an answer the SDK would ask again while another test runs.
  for (const { request, response } of requests) {
    if (!response.headersSent) response.writeHead(404, { connection: 'close' }).end();
    request.resume();
  }
  server.close();
  server.closeIdleConnections();
  await once(server, 'close');
});

const never = (): Promise<never> => new Promise<never>(() => undefined);

test.each<[string, () => Promise<unknown>]>([
  ['put', () => client.put('key', Buffer.alloc(10))],
  ['put of more than the connection holds', () => client.put('key', Buffer.alloc(32 * MIB))],
  ['delete', () => client.delete('key')],
  ['begin', () => client.parts.begin('key')],
])('%s ends where no answer comes', async (_, ask) => {
  read = never;
  const beganMs = Date.now();
  await expect(ask()).rejects.toMatchObject({ code: 'request_timeout', details: { problem: 'timeout' } });
  expect(Date.now() - beganMs).toBeLessThan(30_000);
});

test('a put that is given up lets go of its connection', async () => {
  read = never;
  await expect(client.put('key', Buffer.alloc(32 * MIB))).rejects.toMatchObject({ code: 'request_timeout' });
  const [given] = requests;
  given?.request.resume();
  await expect(once(given?.request ?? server, 'end')).rejects.toThrow('aborted');
});

test('a put and a part may take longer than that while bytes go on', async () => {
  // Longer than elsewhere: a busy machine may stop for a second.
  const silenceMs = 3_000;
  await client.close();
  client = await clientWith(silenceMs);
  // Slower than the limit in all, quicker from piece to piece.
  read = async (request, body) => {
    let sinceRest = 0;
    for await (const chunk of request as AsyncIterable<Buffer>) {
      body.push(chunk);
      sinceRest += chunk.length;
      if (sinceRest < 2 * MIB) continue;
      sinceRest = 0;
      await sleep(silenceMs / 6);
    }
  };
  const bytes = Buffer.alloc(24 * MIB, 'abc');
  const beganMs = Date.now();
  await client.put('a/key', bytes);
  expect(Date.now() - beganMs).toBeGreaterThan(1.5 * silenceMs);
  const [whole] = requests;
  expect(whole?.request.url).toBe('/upload/storage/v1/b/bucket/o?uploadType=multipart');
  const text = Buffer.concat(whole?.body ?? []);
  const boundary = text.subarray(2, text.indexOf('\r\n')).toString();
  const head = text.subarray(0, text.indexOf('abcabc')).toString();
  // CRC32C as Google has it: big-endian, base64.
  expect(JSON.parse(head.split('\r\n')[3] ?? '')).toEqual({
    name: 'a/key',
    contentType: 'application/octet-stream',
    crc32c: expect.stringMatching(/^[A-Za-z0-9+/]{6}==$/),
  });
  expect(text.subarray(head.length, head.length + bytes.length).equals(bytes)).toBe(true);
  expect(text.subarray(head.length + bytes.length).toString()).toBe(`\r\n--${boundary}--\r\n`);

  const sessionUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/session`;
  const part = { number: 0, offset: 0, sizeBytes: bytes.length, totalBytes: bytes.length };
  await client.parts.putPart({ key: 'a/key', uploadId: sessionUrl }, part, bytes);
  expect(Buffer.concat(requests[1]?.body ?? []).equals(bytes)).toBe(true);
});
