import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import type { Environment } from '@octomil/shared/storage';
import { environmentWithProxy, proxyFromEnvironment } from '../config/proxy.js';
import { hasOpenssl, makeCertificates } from '../testing/certificates.js';
import { type ConnectProxy, startConnectProxy } from '../testing/connect-proxy.js';
import { SiteData } from './site-data.js';

// A file of its own: some SDKs read the proxies of the environment once in a process, and here it has none.
const PROXIES = ['HTTPS_PROXY', 'HTTP_PROXY', 'ALL_PROXY', 'NO_PROXY'];
const VARIABLES = [...PROXIES, ...PROXIES.map((name) => name.toLowerCase()), 'GOOGLE_APPLICATION_CREDENTIALS'];
const before = Object.fromEntries(VARIABLES.map((name) => [name, process.env[name]]));
beforeAll(() => {
  for (const name of VARIABLES) delete process.env[name];
});
afterAll(() => {
  for (const [name, value] of Object.entries(before)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});

let folder: string;
let proxy: ConnectProxy;
/** Where tunnels lead; to nowhere by default. */
let port = 1;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-proxied-data-'));
  port = 1;
  proxy = await startConnectProxy(() => ({ host: '127.0.0.1', port }));
});
afterEach(async () => {
  await proxy.close();
  await rm(folder, { recursive: true });
});

/** The content of a file that an agent fetches whose agent.yaml says `proxy` and `no_proxy`. */
async function fetched(path: string, own: Environment, noProxy: readonly string[] = []): Promise<string> {
  const environment = environmentWithProxy(own, proxyFromEnvironment(own, { url: proxy.url, noProxy }));
  const clock = { ...systemClock, sleep: async () => undefined };
  const data = new SiteData({ folder: join(folder, 'copies'), maxBytes: 1e6, environment, clock });
  try {
    const { source } = await data.acquire({ path });
    return await readFile(source.files?.[0] ?? '', 'utf8');
  } finally {
    await data.stop();
  }
}

const S3: Environment = {
  AWS_REGION: 'us-east-1',
  AWS_ACCESS_KEY_ID: 'a',
  AWS_SECRET_ACCESS_KEY: 'b',
  AWS_ENDPOINT_URL_S3: 'https://store.example',
};

const withOpenssl = hasOpenssl() ? test : test.skip;

withOpenssl("data of a bucket come through the proxy of the agent's own setting (needs openssl)", async () => {
  const { caPath, key, cert } = makeCertificates(folder, 2, 'DNS:store.example');
  const server = createServer({ key, cert }, (request, response) => {
    response.writeHead(200, { 'content-length': 4, etag: '"1"' }).end(request.method === 'HEAD' ? undefined : 'a\n1\n');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  port = (server.address() as AddressInfo).port;
  try {
    // What the environment says of proxies leads nowhere.
    const environment = {
      ...S3,
      AWS_CA_BUNDLE: caPath,
      HTTPS_PROXY: 'http://127.0.0.1:1',
      all_proxy: 'http://127.0.0.1:1',
    };
    expect(await fetched('s3://bucket/a.csv', environment)).toBe('a\n1\n');
    expect(new Set(proxy.targets)).toEqual(new Set(['store.example:443']));
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test.each<[string, string, Environment, string]>([
  ['S3', 's3://bucket/a.csv', S3, 'store.example:443'],
  ['GCS', 'gs://bucket/a.csv', { STORAGE_EMULATOR_HOST: 'https://store.example' }, 'store.example:443'],
  [
    'Azure with a key',
    'az://container/a.csv',
    { AZURE_STORAGE_ACCOUNT_NAME: 'store', AZURE_STORAGE_ACCOUNT_KEY: 'SFVTSEVE' },
    'store.blob.core.windows.net:443',
  ],
  [
    'Azure with a signature',
    'https://store.blob.core.windows.net/container/a.csv?sv=1&sig=a',
    {},
    'store.blob.core.windows.net:443',
  ],
  [
    'Azure with a connection string',
    'az://container/a.csv',
    {
      AZURE_STORAGE_CONNECTION_STRING:
        'AccountName=store;AccountKey=SFVTSEVE;EndpointSuffix=core.windows.net;DefaultEndpointsProtocol=https',
    },
    'store.blob.core.windows.net:443',
  ],
  ['https', 'https://store.example/a.csv', {}, 'store.example:443'],
])(
  '%s is reached through it, except where no_proxy names its host',
  async (_, path, environment, target) => {
    await expect(fetched(path, environment)).rejects.toMatchObject({
      code: 'network_unavailable',
      reason: expect.stringContaining('proxy of agent.yaml'),
    });
    expect(new Set(proxy.targets)).toEqual(new Set([target]));
    proxy.targets.length = 0;
    await expect(fetched(path, environment, ['.example', 'core.windows.net'])).rejects.toHaveProperty('code');
    expect(proxy.targets).toEqual([]);
  },
  120_000,
);

test('Google is asked for a token through it', async () => {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const keyFile = join(folder, 'account.json');
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' });
  await writeFile(keyFile, JSON.stringify({ type: 'service_account', client_email: 'a@b.example', private_key: pem }));
  const environment = { GOOGLE_APPLICATION_CREDENTIALS: keyFile, GOOGLE_CLOUD_PROJECT: 'project' };
  // The library warns of a file that is named to it any other way.
  process.env['GOOGLE_APPLICATION_CREDENTIALS'] = keyFile;
  await expect(fetched('gs://bucket/a.csv', environment)).rejects.toHaveProperty('code', 'network_unavailable');
  expect(new Set(proxy.targets)).toEqual(new Set(['oauth2.googleapis.com:443']));
}, 120_000);
