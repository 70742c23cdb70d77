import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import type { Environment } from '@octomil/shared/storage';
import { SourceFiles } from './index.js';

// A file of its own: some SDKs read the proxies of the environment once in a process.
const VARIABLES = ['HTTPS_PROXY', 'https_proxy', 'HTTP_PROXY', 'http_proxy', 'NO_PROXY', 'no_proxy', 'ALL_PROXY'];
const before = Object.fromEntries(VARIABLES.map((name) => [name, process.env[name]]));
const connected: string[] = [];
let folder: string;
let proxy: Server;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-proxied-'));
  proxy = createServer((_, response) => response.writeHead(502).end());
  proxy.on('connect', (request: IncomingMessage, socket) => {
    connected.push(`${request.url} ${request.headers['proxy-authorization'] ?? ''}`.trim());
    socket.destroy();
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  for (const name of VARIABLES) delete process.env[name];
  process.env['HTTPS_PROXY'] = `http://user:HUSHED@127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  process.env['NO_PROXY'] = 'direct.example,direct.blob.core.windows.net';
});

afterAll(async () => {
  for (const name of VARIABLES) {
    const value = before[name];
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  proxy.closeAllConnections();
  proxy.close();
  await rm(folder, { recursive: true });
});

async function acquire(path: string, own: Environment) {
  const { HTTPS_PROXY, NO_PROXY } = process.env;
  const environment = { ...own, HTTPS_PROXY, NO_PROXY };
  const clock = { ...systemClock, sleep: async () => undefined };
  const files = await SourceFiles.open({ folder, maxBytes: 1e6, environment, clock });
  try {
    return await files.acquire({ path });
  } finally {
    await files.close();
  }
}

test.each<[string, (host: string) => string, (host: string) => Environment, string]>([
  [
    'S3',
    () => 's3://bucket/a.csv',
    (host) => ({
      AWS_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: 'a',
      AWS_SECRET_ACCESS_KEY: 'HUSHED',
      AWS_ENDPOINT_URL_S3: `https://${host}.example`,
    }),
    '.example',
  ],
  ['GCS', () => 'gs://bucket/a.csv', (host) => ({ STORAGE_EMULATOR_HOST: `https://${host}.example` }), '.example'],
  [
    'Azure',
    () => 'az://container/a.csv',
    (host) => ({ AZURE_STORAGE_ACCOUNT_NAME: host, AZURE_STORAGE_ACCOUNT_KEY: 'SFVTSEVE' }),
    '.blob.core.windows.net',
  ],
  ['https', (host) => `https://${host}.example/a.csv`, () => ({}), '.example'],
])(
  'is used for %s, named when it fails, and left out for hosts of NO_PROXY',
  async (_, path, environment, domain) => {
    const [thrown, direct] = await Promise.all(
      ['host', 'direct'].map((host) => acquire(path(host), environment(host)).catch((error: unknown) => error)),
    );
    expect(thrown).toMatchObject({ code: 'network_unavailable', reason: expect.stringMatching(/HTTPS_PROXY/) });
    expect(inspect(thrown, { depth: 20, showHidden: true })).not.toMatch(/HUSHED|SFVTSEVE/);
    // There is no such host.
    expect(direct).toMatchObject({ code: expect.any(String) });
    const login = `Basic ${Buffer.from('user:HUSHED').toString('base64')}`;
    expect(new Set(connected)).toEqual(new Set([`host${domain}:443 ${login}`]));
    connected.length = 0;
  },
  240_000,
);
