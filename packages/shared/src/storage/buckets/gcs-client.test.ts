import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { BucketClient } from './index.js';
import { openBucket } from './index.js';

const CHUNK = 256 * 1024;

/** Resumable sessions as https://cloud.google.com/storage/docs/performing-resumable-uploads has them. */
let server: Server;
let client: BucketClient;
const stored = new Map<string, Buffer>();
const sessions = new Map<string, Buffer>();

beforeAll(async () => {
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '', 'http://x');
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const name = url.searchParams.get('name') ?? decodeURIComponent(url.pathname.split('/o/')[1] ?? '');
    if (request.method === 'POST') {
      sessions.set(name, Buffer.alloc(0));
      response.writeHead(200, { location: `http://${request.headers.host}/session?name=${name}` }).end();
    } else if (request.method === 'DELETE') {
      sessions.delete(name);
      response.writeHead(499).end();
    } else if (request.method === 'PUT') {
      const [, from, end] = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(request.headers['content-range'] ?? '') ?? [];
      const before = sessions.get(name);
      if (before === undefined) {
        response.writeHead(stored.has(name) ? 200 : 404).end();
        return;
      }
      const now = from === undefined ? before : Buffer.concat([before.subarray(0, Number(from)), body]);
      sessions.set(name, now);
      if (from !== undefined && end !== '*' && now.length === Number(end)) {
        stored.set(name, now);
        sessions.delete(name);
        response.writeHead(200).end('{}');
      } else response.writeHead(308, now.length === 0 ? {} : { range: `bytes=0-${now.length - 1}` }).end();
    } else {
      const found = stored.get(name);
      const metadata = { name, size: String(found?.length), updated: '2026-01-01T00:00:00Z', generation: '7' };
      const headers = { 'content-type': 'application/json' };
      if (found === undefined)
        response.writeHead(404, headers).end('{"error":{"code":404,"message":"No such object"}}');
      else response.writeHead(200, headers).end(JSON.stringify(metadata));
    }
  };
  server = createServer((request, response) => void answer(request, response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const environment = { STORAGE_EMULATOR_HOST: `127.0.0.1:${(server.address() as AddressInfo).port}` };
  client = await openBucket({ provider: 'gs', bucket: 'bucket' }, { environment, purpose: 'store' });
});

afterAll(async () => {
  await client.close();
  server.closeAllConnections();
  server.close();
});

test('a session says what has arrived, is gone on with, and is complete when all of it is there', async () => {
  const { parts } = client;
  const totalBytes = 2 * CHUNK + 100;
  const bytes = Buffer.alloc(totalBytes, 5);
  const upload = await parts.begin('incoming/a');
  const send = (number: number) => {
    const piece = bytes.subarray(number * CHUNK, (number + 1) * CHUNK);
    return parts.putPart(upload, { number, offset: number * CHUNK, sizeBytes: piece.length, totalBytes }, piece);
  };
  expect(await parts.received(upload, CHUNK)).toEqual([]);
  await send(0);
  expect(await parts.received(upload, CHUNK)).toEqual([{ number: 0, sizeBytes: CHUNK }]);
  await expect(parts.complete(upload, 3, totalBytes)).rejects.toMatchObject({
    code: 'transfer_incomplete',
    details: { receivedBytes: CHUNK, expectedBytes: totalBytes },
  });
  await send(1);
  await send(2);
  await parts.complete(upload, 3, totalBytes);
  expect(await parts.received(upload, CHUNK)).toEqual([
    { number: 0, sizeBytes: CHUNK },
    { number: 1, sizeBytes: CHUNK },
    { number: 2, sizeBytes: 100 },
  ]);
  expect(stored.get('incoming/a')?.equals(bytes)).toBe(true);
  const given = await parts.begin('incoming/b');
  await parts.abort(given);
  await expect(parts.complete(given, 1, 10)).rejects.toMatchObject({ code: 'transfer_incomplete' });
});
