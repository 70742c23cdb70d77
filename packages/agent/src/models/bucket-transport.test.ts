import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { HttpTransfers } from '../connection/http-transfers.js';
import { bucketBaseTransport } from './bucket-transport.js';
import { downloadBase } from './download.js';
import { httpBaseTransport } from './transports.js';

const bytes = randomBytes(3 * 1024 * 1024);
const base = { sha256: createHash('sha256').update(bytes).digest('hex'), sizeBytes: bytes.length };

let server: Server;
let origin: string;
let folder: string;
let http: HttpTransfers;
/** Who was asked for what. */
let asked: string[];
let addressOf: (nth: number) => unknown;
let bucket: (request: IncomingMessage, response: ServerResponse, nth: number) => void;

const sendFrom = (response: ServerResponse, start: number, end = bytes.length, content = bytes): void => {
  const headers = start === 0 ? {} : { 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
  response.writeHead(start === 0 ? 200 : 206, { 'content-length': bytes.length - start, ...headers });
  if (end === bytes.length) response.end(content.subarray(start));
  else response.write(content.subarray(start, end), () => setTimeout(() => response.destroy(), 50));
};
const startOf = ({ headers }: IncomingMessage): number => Number(/^bytes=(\d+)-/.exec(headers.range ?? '')?.[1] ?? 0);

beforeEach(async () => {
  asked = [];
  folder = await mkdtemp(join(tmpdir(), 'octomil-direct-download-'));
  const counts = { address: 0, bucket: 0 };
  server = createServer((request, response) => {
    const path = request.url ?? '';
    if (path.endsWith('/address')) {
      asked.push('address');
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify(addressOf(counts.address++)));
    } else if (path.startsWith('/bucket/')) {
      asked.push(`${path} from ${startOf(request)}`);
      // What opens the coordinator must not reach the bucket.
      expect(request.headers.authorization).toBeUndefined();
      bucket(request, response, counts.bucket++);
    } else {
      asked.push(`coordinator from ${startOf(request)}`);
      sendFrom(response, startOf(request));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  http = new HttpTransfers(
    {
      coordinator: { host: '127.0.0.1', port: 1, tls: false },
      tls: {},
      proxy: { url: undefined, explicit: false, noProxy: [] },
      insecure: false,
    } as ConstructorParameters<typeof HttpTransfers>[0],
    () => 'odc_secret',
  );
  http.offer(origin);
  addressOf = (nth) => ({ url: `${origin}/bucket/${nth}?signature=HUSHED`, headers: {} });
});

afterEach(async () => {
  await http.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true });
});

const newTransports = () => [
  bucketBaseTransport({ http, clock: systemClock, logger: silentLogger }),
  httpBaseTransport(http),
];
const download = async (transports = newTransports(), wanted = base): Promise<void> => {
  const path = join(folder, 'base');
  await downloadBase({
    base: wanted,
    path,
    transports,
    signal: new AbortController().signal,
    clock: systemClock,
    logger: silentLogger,
    onBytes: () => undefined,
  });
  expect(bytes.equals(await readFile(path))).toBe(true);
};

test('a cut goes on where it was, by a request that is signed anew; so does one that is refused', async () => {
  bucket = (request, response, nth) => {
    if (nth === 0) sendFrom(response, 0, 1_500_000);
    else if (nth === 1) response.writeHead(403).end('<Error><Code>AccessDenied</Code></Error>');
    else sendFrom(response, startOf(request));
  };
  await download();
  expect(asked.filter((what) => what === 'address')).toHaveLength(3);
  expect(asked.filter((what) => what.startsWith('coordinator'))).toEqual([]);
  const resumedAt = Number(/from (\d+)$/.exec(asked.at(-1) ?? '')?.[1]);
  expect(resumedAt).toBeGreaterThan(0);
});

test('a bucket that always refuses, or cannot be reached, is tried once and left alone for a while', async () => {
  bucket = (_request, response) => response.writeHead(403).end();
  const transports = newTransports();
  await download(transports);
  expect(asked).toEqual([
    'address',
    expect.stringMatching(/bucket\/0/),
    'address',
    expect.stringMatching(/bucket\/1/),
    'coordinator from 0',
  ]);
  asked.length = 0;
  await download(transports);
  expect(asked).toEqual(['coordinator from 0']);
  addressOf = () => ({ url: 'http://127.0.0.1:1/nobody', headers: {} });
  asked.length = 0;
  const others = newTransports();
  await download(others);
  await download(others);
  expect(asked).toEqual(['address', 'coordinator from 0', 'coordinator from 0']);
});

test('a bucket whose clock is off is named with its time, and nobody is told the signature', async () => {
  bucket = (_request, response) => response.writeHead(403, { date: 'Sat, 01 Jan 2022 12:20:00 GMT' }).end();
  const lines: string[] = [];
  const note = (...said: unknown[]) => void lines.push(inspect(said, { depth: 8 }));
  const logger = { ...silentLogger, warn: note, info: note, error: note, debug: note };
  await download([bucketBaseTransport({ http, clock: systemClock, logger }), httpBaseTransport(http)]);
  expect(asked.at(-1)).toBe('coordinator from 0');
  expect(lines.join()).toContain('the signed request is over, by its clock at 2022-01-01T12:20:00.000Z');
  expect(lines.join()).not.toContain('HUSHED');
});

test('no other place is gone to because the bucket says so', async () => {
  bucket = (_request, response) => response.writeHead(302, { location: `${origin}/bucket/elsewhere` }).end();
  await download();
  expect(asked).toEqual(['address', expect.stringMatching(/bucket\/0/), 'coordinator from 0']);
});

test('other bytes in the bucket are found by their digest, and the coordinator is asked', async () => {
  bucket = (_request, response) => sendFrom(response, 0, bytes.length, randomBytes(bytes.length));
  await download();
  expect(asked.at(-1)).toBe('coordinator from 0');
});

test.each([
  ['where objects live in a folder', { url: null }],
  ['to another place of this machine by another scheme', { url: 'file:///etc/passwd', headers: {} }],
  ['with headers that no bucket asks for', { url: 'http://127.0.0.1/x', headers: { authorization: 'Bearer x' } }],
])('%s the coordinator sends the bytes', async (_what, address) => {
  addressOf = () => address;
  await download();
  expect(asked).toEqual(['address', 'coordinator from 0']);
});

test('what is small comes from the coordinator without a question', async () => {
  expect(newTransports()[0]?.suits?.({ sha256: base.sha256, sizeBytes: 1000 })).toBe(false);
});
