import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer, request as forward } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { type BucketClient, openBucket, parseBucketUrl } from '@octomil/shared/storage';
import { type DemoOptions, runDemo } from '../demo/demo.js';
import { GENERATED_TARGET } from '../demo/hospitals.js';
import { type SiteFile, writeGeneratedSites } from '../demo/site-files.js';
import { startFleet } from '../fleet/fleet.js';
import { RecordedLog } from './recorded-log.js';

jest.setTimeout(180_000);

const CLOUDS = ['TEST_S3_URL', 'TEST_GCS_URL', 'TEST_AZURE_URL'].map((variable) => ({
  name: `${variable} of scripts/with-clouds.js`,
  url: process.env[variable] ?? '',
}));
const skippedWithout = (url: string) => (url === '' ? test.skip : test);

let folder: string;
let sites: SiteFile[];
let digest: string | undefined;
const prefix = `system-${randomUUID()}`;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-clouds-'));
  sites = await writeGeneratedSites(join(folder, 'sites'), 3);
});
afterAll(() => rm(folder, { recursive: true }));

async function withBucket<T>(url: string, work: (bucket: BucketClient) => Promise<T>): Promise<T> {
  const address = parseBucketUrl(url)?.address;
  if (address === undefined) throw new TypeError(`${url} is no bucket`);
  const bucket = await openBucket(address, { environment: process.env, purpose: 'store' });
  try {
    return await work(bucket);
  } finally {
    await bucket.close();
  }
}

const keyOf = ({ path }: SiteFile) => `${prefix}/sites of 3/${basename(path)}`;

const DEMO: DemoOptions = {
  target: GENERATED_TARGET,
  architecture: 'logistic',
  algorithm: 'fedavg',
  rounds: 2,
  localEpochs: 1,
  learningRate: 0.1,
  seed: 3,
};

for (const { name, url } of CLOUDS) {
  skippedWithout(url)(
    `the demo ends with the same model on data in a bucket as on the same files (${name})`,
    async () => {
      await withBucket(url, async (bucket) => {
        for (const site of sites) await bucket.put(keyOf(site), await readFile(site.path));
        // Neither a table nor a site of its own.
        await bucket.put(`${prefix}/sites of 3/_SUCCESS`, new Uint8Array());
      });
      digest ??= (await runDemo({ ...DEMO, data: join(folder, 'sites') })).digest;
      const remote = await runDemo({ ...DEMO, data: `${url}/${prefix}/sites of 3` });
      expect(remote.digest).toBe(digest);
      expect(Object.keys(remote.local)).toHaveLength(4);
    },
  );
}

/** Passes requests on to a server of the loopback, and keeps which objects were read. */
async function startCountingProxy(target: string) {
  const reads: string[] = [];
  const { hostname, port } = new URL(target);
  const server = createServer((asked, answer) => {
    const { method = 'GET', url: path = '/', headers } = asked;
    if (method === 'GET' && !/[?&]list-type=/.test(path)) reads.push(decodeURIComponent(path.split('?', 1)[0] ?? ''));
    if (proxy.refusing) return void answer.writeHead(403, { connection: 'close' }).end();
    // The host stays the one that the client signed.
    const passed = forward({ hostname, port, method, path, headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(answer);
    });
    passed.once('error', () => answer.destroy());
    asked.pipe(passed);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const proxy = {
    reads,
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    refusing: false,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
  return proxy;
}

const s3 = process.env['TEST_S3_URL'] ?? '';
const endpoint = process.env['AWS_ENDPOINT_URL_S3'] ?? '';

skippedWithout(s3)(
  'a site on S3: an object is fetched once per version, and credentials stay with the agent',
  async () => {
    const [here, ...others] = sites.filter(({ path }) => path.endsWith('.csv'));
    if (here === undefined) throw new TypeError('no CSV was generated');
    const key = `${prefix}/ward-7/patients.csv`;
    const content = await readFile(here.path, 'utf8');
    const put = (text: string) => withBucket(s3, (bucket) => bucket.put(key, Buffer.from(text)));
    await put(content);
    const proxy = await startCountingProxy(endpoint);
    const log = new RecordedLog();
    process.env['AWS_ENDPOINT_URL_S3'] = proxy.origin;
    try {
      const fleet = await startFleet({
        agents: [
          { name: 'remote', dataSets: { default: `${s3}/${key}` } },
          ...others.map(({ name, path }) => ({ name, dataSets: { default: path } })),
        ],
        logger: log.logger,
      });
      try {
        await fleet.registry.ensureModel({ name: 'risk' });
        const train = (rounds: number) =>
          fleet.federation().train({
            ...{ model: 'risk', architecture: 'logistic', target: GENERATED_TARGET, rounds, seed: 1 },
            ...{ minUpdates: 1 + others.length, baseVersion: 'initial' },
          });
        const first = await train(2);
        expect(first.rounds.length).toBeGreaterThanOrEqual(2);
        expect(proxy.reads.filter((path) => path.endsWith(key))).toHaveLength(1);

        // Every patient twice: another version, other rows.
        const [header, ...rows] = content.trimEnd().split('\n');
        await put(`${[header, ...rows, ...rows].join('\n')}\n`);
        const second = await train(1);
        expect(proxy.reads.filter((path) => path.endsWith(key))).toHaveLength(2);
        expect(second.digest).not.toBe(first.digest);

        const devices = JSON.stringify(await fleet.organization.listDevices());
        expect(devices).toContain('remote');
        expect(devices).not.toMatch(/ward-7|s3:/);

        // Access is withdrawn: said without its place, until it is given again.
        proxy.refusing = true;
        await expect(train(1)).rejects.toMatchObject({
          reason: expect.stringMatching(/remote: .*its store denies access/),
        });
        expect(JSON.stringify(await fleet.organization.listDevices())).not.toMatch(/ward-7|s3:/);
        expect(log.complaints('remote').join()).toContain('ward-7');
        proxy.refusing = false;
        while (JSON.stringify(await fleet.organization.listDevices()).includes('its store')) {
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
        expect((await train(1)).status).toBe('completed');
        const left = await readdir(join(fleet.folder, 'agents', 'remote', 'state', 'sources'));
        expect(left).toHaveLength(1);
        await fleet.agent('remote').stop();
        expect(await readdir(join(fleet.folder, 'agents', 'remote', 'state', 'sources'))).toEqual([]);
        const kept = join(fleet.folder, 'agents', 'remote', 'state');
        for (const name of ['audit.jsonl', 'data-sets.json']) {
          expect(await readFile(join(kept, name), 'utf8')).not.toMatch(/ward-7|octomil-secret/);
        }
      } finally {
        await fleet.stop();
      }
    } finally {
      process.env['AWS_ENDPOINT_URL_S3'] = endpoint;
      proxy.close();
    }
  },
);
