import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { openSource, TemporaryCopies } from './index.js';

let folder: string;
let server: Server;
let url: string;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
const asked: string[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-copies-'));
  asked.length = 0;
  server = createServer((request, response) => {
    asked.push(`${request.method} ${request.headers.range ?? ''}`.trim());
    answer(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/data/table.csv`;
});

afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await rm(folder, { recursive: true, force: true });
});

const options = { environment: {}, clock: { ...systemClock, sleep: async () => undefined } };
const openCopies = (maxBytes = 1e6) => TemporaryCopies.open({ folder, maxBytes, clock: systemClock });

/** A file that knows ranges and conditions, and may cut the connection after so many bytes of an answer. */
function serve(content: () => { bytes: Buffer; etag: string }, cutAfter?: () => number | undefined): void {
  answer = (request, response) => {
    const { bytes, etag } = content();
    const condition = request.headers['if-match'];
    if (condition !== undefined && condition !== etag) {
      response.writeHead(412).end();
      return;
    }
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    const part = from === undefined ? bytes : bytes.subarray(Number(from), Number(to) + 1);
    const range = from === undefined ? {} : { 'content-range': `bytes ${from}-${to}/${bytes.length}` };
    response.writeHead(from === undefined ? 200 : 206, { etag, 'content-length': part.length, ...range });
    if (request.method === 'HEAD') {
      response.end();
      return;
    }
    const cut = cutAfter?.();
    if (cut === undefined) response.end(part);
    else response.write(part.subarray(0, cut), () => response.destroy());
  };
}

test('a copy is made once, read again in the next round, and made anew when the object changes', async () => {
  let content = { bytes: Buffer.from('a,b\n1,2\n'), etag: '"v1"' };
  serve(() => content);
  const copies = await openCopies();
  for (let round = 0; round < 3; round++) {
    const { files, release } = await openSource(`${url}?sig=SECRET`, copies, options);
    expect(files).toMatchObject([{ place: url, sizeBytes: 8, version: '"v1"' }]);
    expect(files[0]?.path.endsWith('.csv')).toBe(true);
    expect(await readFile(files[0]?.path ?? '', 'utf8')).toBe('a,b\n1,2\n');
    await release();
  }
  expect(asked.filter((line) => line.startsWith('GET'))).toHaveLength(1);
  const held = await openSource(url, copies, options);
  content = { bytes: Buffer.from('a,b\n3,4\n5,6\n'), etag: '"v2"' };
  const newer = await openSource(url, copies, options);
  expect(await readFile(newer.files[0]?.path ?? '', 'utf8')).toBe('a,b\n3,4\n5,6\n');
  // Whoever still reads the old one keeps it.
  expect(await readFile(held.files[0]?.path ?? '', 'utf8')).toBe('a,b\n1,2\n');
  await held.release();
  await expect(readFile(held.files[0]?.path ?? '')).rejects.toMatchObject({ code: 'ENOENT' });
  await copies.close();
  expect(await readdir(folder)).toEqual([]);
});

test('a connection that is cut is taken up where it ended; one that never brings a byte ends', async () => {
  const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, index) => index % 251));
  let cuts = 3;
  serve(
    () => ({ bytes, etag: '"v1"' }),
    () => (cuts-- > 0 ? 80_000 : undefined),
  );
  const copies = await openCopies();
  const { files } = await openSource(url, copies, options);
  expect(bytes.equals(await readFile(files[0]?.path ?? ''))).toBe(true);
  expect(asked.slice(2)[0]).toMatch(/^(HEAD|GET)/);
  expect(asked.at(-1)).toMatch(/^GET bytes=\d{5,}-299999$/);
  serve(
    () => ({ bytes, etag: '"v2"' }),
    () => 0,
  );
  asked.length = 0;
  await expect(openSource(url, copies, options)).rejects.toMatchObject({ code: 'network_unavailable' });
  expect(asked.filter((line) => line.startsWith('GET')).length).toBeLessThanOrEqual(4);
  await copies.close();
});

test('an object that changes while it is read is read again, and given up when it never stays', async () => {
  let version = 1;
  let changes = 1;
  const bytes = () => Buffer.alloc(200_000, String(version));
  serve(
    () => ({ bytes: bytes(), etag: `"v${version}"` }),
    () => {
      if (changes-- <= 0) return undefined;
      version++;
      return 90_000;
    },
  );
  const copies = await openCopies();
  const { files } = await openSource(url, copies, options);
  const text = await readFile(files[0]?.path ?? '', 'utf8');
  expect(new Set(text)).toEqual(new Set(['2']));
  version++;
  changes = 1000;
  await expect(openSource(url, copies, options)).rejects.toMatchObject({ details: { problem: 'changed' } });
  await copies.close();
});

test('copies are bounded: what is too large is refused before it is read, and what nobody uses makes room', async () => {
  serve(() => ({ bytes: Buffer.alloc(600), etag: '"v1"' }));
  const small = await openCopies(500);
  await expect(openSource(url, small, options)).rejects.toMatchObject({
    code: 'too_large',
    details: { size_bytes: 600, limit_bytes: 500 },
  });
  expect(asked.some((line) => line.startsWith('GET'))).toBe(false);
  await small.close();
  const copies = await openCopies(1000);
  const one = await openSource(url, copies, options);
  await expect(openSource(url.replace('table', 'other'), copies, options)).rejects.toMatchObject({ code: 'too_large' });
  await one.release();
  const other = await openSource(url.replace('table', 'other'), copies, options);
  expect(other.files).toHaveLength(1);
  await expect(readFile(one.files[0]?.path ?? '')).rejects.toMatchObject({ code: 'ENOENT' });
  await copies.close();
});

test('what a killed process left is swept by the next; what a living one holds stays', async () => {
  const script = `
    const { mkdirSync, writeFileSync } = require('node:fs');
    const folder = ${JSON.stringify(folder)} + '/copies-' + process.pid + '-x';
    mkdirSync(folder); writeFileSync(folder + '/a.csv', 'patients'); console.log('ready'); setInterval(() => 0, 1000);`;
  const child = spawn(process.execPath, ['-e', script]);
  await once(child.stdout, 'data');
  // Of an earlier process with our number.
  await mkdir(join(folder, `copies-${process.pid}-old`));
  const first = await openCopies();
  expect((await readdir(folder)).filter((name) => name.startsWith(`copies-${child.pid}-`))).toHaveLength(1);
  expect(await readdir(folder)).not.toContain(`copies-${process.pid}-old`);
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
  const second = await openCopies();
  expect((await readdir(folder)).filter((name) => name.startsWith(`copies-${child.pid}-`))).toEqual([]);
  expect(await readdir(folder)).toHaveLength(2);
  await first.close();
  await second.close();
});

test('failures say what to do and never quote the signature of a URL', async () => {
  const copies = await openCopies();
  const failing: [number | 'cut' | 'redirect', string, RegExp][] = [
    [404, 'data_unreadable', /there is no such file or object/],
    [403, 'data_unreadable', /denies access/],
    [401, 'data_unreadable', /does not know these credentials/],
    [503, 'network_unavailable', /try again later/],
    ['cut', 'network_unavailable', /cannot be reached; check the network, HTTPS_PROXY/],
  ];
  for (const [status, code, reason] of failing) {
    answer = (_, response) => {
      if (typeof status === 'number') response.writeHead(status).end('SECRET');
      else response.destroy();
    };
    const thrown = await openSource(`${url}?sig=SECRET`, copies, options).catch((error: unknown) => error);
    expect(thrown).toMatchObject({ code, reason: expect.stringMatching(reason) });
    expect(inspect(thrown, { depth: 10, showHidden: true })).not.toContain('SECRET');
  }
  await copies.close();
});

test('a cancelled fetch ends at once and leaves nothing', async () => {
  answer = (request, response) => {
    response.writeHead(200, { 'content-length': 1000, etag: '"v"' });
    if (request.method === 'HEAD') response.end();
    else response.write('half');
  };
  const copies = await openCopies();
  const abort = new AbortController();
  const opening = openSource(url, copies, { ...options, signal: abort.signal });
  while (!asked.some((line) => line.startsWith('GET'))) await systemClock.sleep(5);
  abort.abort();
  await expect(opening).rejects.toMatchObject({ code: 'cancelled' });
  const [own = ''] = await readdir(folder);
  expect(await readdir(join(folder, own))).toEqual([]);
  await copies.close();
});

test('requests go through the proxy of the environment, and a proxy that is down is named', async () => {
  serve(() => ({ bytes: Buffer.from('a\n1\n'), etag: '"v1"' }));
  const connected: string[] = [];
  // Plaintext is passed on by its whole URL, https through CONNECT.
  const proxy = createServer((request, response) => {
    connected.push(`${request.url} ${request.headers['proxy-authorization'] ?? ''}`);
    answer(request, response);
  });
  proxy.on('connect', (request: IncomingMessage, socket) => {
    connected.push(`${request.url} ${request.headers['proxy-authorization'] ?? ''}`);
    socket.destroy();
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  const { port } = proxy.address() as AddressInfo;
  const { openWebTransport } = await import('@octomil/shared/storage');
  const environment = {
    https_proxy: `http://user:SECRET@127.0.0.1:${port}`,
    http_proxy: `http://user:SECRET@127.0.0.1:${port}`,
  };
  const { request, dispatcher } = await openWebTransport(environment);
  const response = await request('http://bucket.example/data/table.csv', { dispatcher });
  expect(await response.body.text()).toBe('a\n1\n');
  const login = `Basic ${Buffer.from('user:SECRET').toString('base64')}`;
  expect(connected).toEqual([`http://bucket.example/data/table.csv ${login}`]);
  // The loopback is reached without it.
  await (await request(url, { dispatcher })).body.dump();
  expect(connected).toHaveLength(1);
  await expect(request('https://bucket.example/x', { dispatcher })).rejects.toThrow();
  expect(connected[1]).toBe(`bucket.example:443 ${login}`);
  await dispatcher.destroy();
  proxy.closeAllConnections();
  proxy.close();
  const copies = await openCopies();
  const thrown = await openSource('https://bucket.example/x.csv', copies, { ...options, environment }).catch(
    (e: unknown) => e,
  );
  expect(thrown).toMatchObject({ code: 'network_unavailable', reason: expect.stringMatching(/HTTPS_PROXY/) });
  expect(inspect(thrown, { depth: 10 })).not.toContain('SECRET');
  await copies.close();
});

test('files of this machine are read where they are: one, a folder, a pattern', async () => {
  const data = join(folder, 'data');
  await mkdir(join(data, 'deep'), { recursive: true });
  for (const name of ['b.csv', 'a.csv.gz', 'deep/c.parquet', 'notes.md', '_SUCCESS', '.hidden.csv']) {
    await writeFile(join(data, name), createHash('md5').update(name).digest('hex'));
  }
  const copies = await TemporaryCopies.open({ folder: join(folder, 'copies'), maxBytes: 10, clock: systemClock });
  const names = async (text: string, limits = {}) =>
    (await openSource(text, copies, { ...options, ...limits })).files.map(({ path }) => path.slice(data.length + 1));
  expect(await names(join(data, 'b.csv'))).toEqual(['b.csv']);
  expect(await names(data)).toEqual(['a.csv.gz', 'b.csv', 'deep/c.parquet']);
  expect(await names(`file://${data}/`)).toEqual(['a.csv.gz', 'b.csv', 'deep/c.parquet']);
  expect(await names(`${data}/*.csv`)).toEqual(['.hidden.csv', 'b.csv']);
  expect(await names(`${data}/**/*.parquet`)).toEqual(['deep/c.parquet']);
  await expect(names(join(data, 'missing.csv'))).rejects.toMatchObject({ code: 'data_unreadable' });
  await expect(names(`${data}/*.orc`)).rejects.toMatchObject({ code: 'data_unreadable' });
  await expect(names(data, { maxFiles: 2 })).rejects.toMatchObject({ details: { problem: 'too_many' } });
  await copies.close();
});

test('a cut download of a server that tells no version does not go on with what may be another one', async () => {
  let gets = 0;
  answer = (request, response) => {
    const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    response.writeHead(from === 0 ? 200 : 206, { 'content-length': 8 - from });
    if (request.method === 'HEAD') return void response.end();
    gets += 1;
    // Written anew after the first half was sent.
    if (gets === 1) response.write('a\n1\n', () => response.destroy());
    else response.end('b\n2\n3\n4\n'.slice(from));
  };
  const copies = await openCopies();
  await expect(openSource(url, copies, options)).rejects.toMatchObject({ code: 'network_unavailable' });
  expect(gets).toBe(1);
  const { files } = await openSource(url, copies, options);
  expect(await readFile(files[0]?.path ?? '', 'utf8')).toBe('b\n2\n3\n4\n');
  await copies.close();
});

test('the length of a first byte is not taken for that of the file', async () => {
  answer = (request, response) => {
    if (request.method === 'HEAD') return void response.writeHead(405).end();
    response.writeHead(206, { 'content-length': 1, 'content-range': 'bytes 0-0/*', etag: '"v"' }).end('a');
  };
  const copies = await openCopies();
  await expect(openSource(url, copies, options)).rejects.toThrow(/does not say how large/);
  await copies.close();
});
