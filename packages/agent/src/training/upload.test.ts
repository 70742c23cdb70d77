import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { Metadata } from '@grpc/grpc-js';
import { expect, test } from '@jest/globals';
import { UploadTicketSchema } from '@octomil/proto';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import type { CoordinatorClient } from '../connection/coordinator-client.js';
import { HttpTransfers } from '../connection/http-transfers.js';
import { missingParts, uploadParts } from './upload.js';

const partsOf = (partSizeBytes: bigint, partCount: number, sizeBytes = 250, receivedParts: number[] = []) =>
  missingParts({ ticket: create(UploadTicketSchema, { partSizeBytes, partCount, receivedParts }), sizeBytes });

test('the parts that are not received, the last one with the rest', () => {
  expect(partsOf(100n, 3, 250, [1])).toEqual([
    { number: 0, offset: 0, length: 100 },
    { number: 2, offset: 200, length: 50 },
  ]);
});

test.each([
  ['a part size of zero', 0n, 3],
  ['a negative part size', -100n, 3],
  ['too few parts, so that the update would end early', 100n, 2],
  ['more parts than the update has bytes for', 100n, 4],
  ['parts without number', 1n, 4_294_967_295],
])('a ticket with %s is not used', (_what, partSizeBytes, partCount) => {
  expect(() => partsOf(partSizeBytes, partCount)).toThrow(expect.objectContaining({ code: 'weight_upload_failed' }));
});

/** One server is coordinator and bucket: what it is asked for tells which of them was meant. */
async function uploadTo(bucketStatus: number, urlOf: (origin: string, number: number) => string): Promise<string[]> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const said = `${request.method} ${request.url} ${request.headers.authorization === undefined ? 'open' : 'ours'}`;
    asked.push(`${said} ${request.headers['content-length'] ?? 0}`);
    request.resume().on('end', () => {
      const status = request.url?.startsWith('/bucket') ? bucketStatus : 200;
      response.writeHead(status, { 'content-type': 'application/json' }).end('{"accepted":true}');
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const origin = `http://127.0.0.1:${port}`;
  const folder = await mkdtemp(join(tmpdir(), 'octomil-upload-'));
  const path = join(folder, 'update');
  await writeFile(path, Buffer.alloc(250));
  const settings = {
    coordinator: { host: '127.0.0.1', port },
    insecure: false,
    tls: {},
    proxy: { url: undefined, explicit: false, noProxy: [] },
  };
  const http = new HttpTransfers(settings as unknown as ConstructorParameters<typeof HttpTransfers>[0], () => 'odc_x');
  http.offer(origin);
  const ticket = create(UploadTicketSchema, {
    ticketId: 't',
    token: 'secret',
    partSizeBytes: 100n,
    partCount: 3,
    // In any order, and without the first: it is there already.
    partRequests: [2, 1].map((number) => ({
      number,
      method: 'PUT',
      url: urlOf(origin, number),
      headers: { 'content-range': `bytes ${number}` },
    })),
  });
  const uploader = {
    http,
    grpc: (): CoordinatorClient => {
      throw new TypeError('not by gRPC');
    },
    metadata: () => new Metadata(),
    clock: { ...systemClock, sleep: async () => undefined },
    logger: silentLogger,
  };
  const done: number[] = [];
  const { signal } = new AbortController();
  const request = { ticket, path, sizeBytes: 250, signal, onBytes: (bytes: number) => done.push(bytes) };
  expect(await uploadParts(uploader, request)).toEqual({ accepted: true });
  expect(done.at(-1)).toBe(250);
  await http.close();
  server.close();
  await rm(folder, { recursive: true });
  return asked;
}

const toCoordinator = [0, 1, 2].map((n) => `PUT /api/v1/transfers/t/parts/${n} ours ${n === 2 ? 50 : 100}`);

test('parts go straight to the bucket, in order, without our credential', async () => {
  expect(await uploadTo(200, (origin, number) => `${origin}/bucket/${number}?sig=x`)).toEqual([
    'PUT /bucket/1?sig=x open 100',
    'PUT /bucket/2?sig=x open 50',
    'POST /api/v1/transfers/t/complete?wait_ms=5000 ours 0',
  ]);
});

test('a bucket that refuses, and one that it would be unsafe to send to, are left for the coordinator', async () => {
  const refused = await uploadTo(403, (origin, number) => `${origin}/bucket/${number}`);
  expect(refused.filter((line) => !line.includes('/bucket/'))).toEqual([
    ...toCoordinator,
    'POST /api/v1/transfers/t/complete?wait_ms=5000 ours 0',
  ]);
  const unsafe = await uploadTo(200, (_, number) => `http://bucket.example/${number}`);
  expect(unsafe).toEqual([...toCoordinator, 'POST /api/v1/transfers/t/complete?wait_ms=5000 ours 0']);
});
