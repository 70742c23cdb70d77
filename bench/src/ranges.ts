import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SourceFiles } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { systemClock } from '@octomil/shared/runtime';
import { type Environment, openBucket, parseBucketUrl } from '@octomil/shared/storage';
import { startCountingProxy } from './counting-proxy.js';
import type { BenchmarkResult, ResultValue } from './result.js';

interface Cloud {
  readonly name: string;
  readonly url: string | undefined;
  /** Where its server is. */
  readonly server: string;
  /** The environment in which it is elsewhere. */
  at(origin: string): Environment;
  /** Also by a signed URL, as any file of the web. */
  readonly web: boolean;
}

const CONNECTION = process.env['AZURE_STORAGE_CONNECTION_STRING'] ?? '';
const AZURE_SERVER = /BlobEndpoint=(https?:\/\/[^/;]+)/.exec(CONNECTION)?.[1] ?? '';

const CLOUDS: readonly Cloud[] = [
  {
    name: 's3',
    url: process.env['TEST_S3_URL'],
    server: process.env['AWS_ENDPOINT_URL_S3'] ?? '',
    at: (origin) => ({ ...process.env, AWS_ENDPOINT_URL_S3: origin }),
    web: true,
  },
  {
    name: 'gcs',
    url: process.env['TEST_GCS_URL'],
    server: process.env['STORAGE_EMULATOR_HOST'] ?? '',
    at: (origin) => ({ ...process.env, STORAGE_EMULATOR_HOST: origin }),
    web: false,
  },
  {
    name: 'azure',
    url: process.env['TEST_AZURE_URL'],
    server: AZURE_SERVER,
    at: (origin) => ({ AZURE_STORAGE_CONNECTION_STRING: CONNECTION.replace(AZURE_SERVER, origin) }),
    web: false,
  },
];

/** Neither first, nor last, nor neighbours. */
const COLUMNS = ['c3', 'c14', 'c27'];

/**
 * Three of thirty columns of a remote Parquet file, of one row group and of all, beside the whole file: requests and bytes
 * on the wire (counted by a proxy before the server) and seconds, all requests from the first included.
 */
export async function rangesBench({ rows }: { readonly rows: number }): Promise<BenchmarkResult> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  try {
    const file = await writeTable(join(folder, 'wide.parquet'), rows);
    const result: Record<string, ResultValue> = { fileMb: megabytes(file.length) };
    for (const cloud of CLOUDS) {
      if (cloud.url === undefined) result[cloud.name] = 'not installed';
      else Object.assign(result, await measureCloud(cloud, cloud.url, file, folder));
    }
    return result;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function measureCloud(
  { name, server, at, web }: Cloud,
  base: string,
  file: Buffer,
  folder: string,
): Promise<Record<string, ResultValue>> {
  const proxy = await startCountingProxy(server);
  const environment = at(proxy.origin);
  const url = `${base}/bench/wide.parquet`;
  const location = parseBucketUrl(url);
  if (location === undefined) throw new OctomilError('internal', `${url} is no bucket`);
  const client = await openBucket(location.address, { environment, purpose: 'source' });
  try {
    await client.put(location.key, file);
    const places: [string, string][] = [[name, url]];
    if (web) places.push(['web', (await client.presignGet(location.key, 3_600_000)).url]);
    const result: Record<string, ResultValue> = {};
    for (const [place, path] of places) {
      for (const [what, wish] of [
        ['OneGroup', { columns: COLUMNS, maxRows: 1 }],
        ['Columns', { columns: COLUMNS }],
        ['Whole', {}],
      ] as const) {
        const files = await SourceFiles.open({
          folder: join(folder, 'copies'),
          maxBytes: 1e10,
          environment,
          clock: systemClock,
        });
        proxy.take();
        const startedMs = performance.now();
        await files.acquire({ path }, wish);
        const seconds = (performance.now() - startedMs) / 1000;
        const { requests, bytes } = proxy.take();
        result[`${place}${what}Requests`] = requests;
        result[`${place}${what}Mb`] = megabytes(bytes);
        result[`${place}${what}Seconds`] = Math.round(seconds * 1000) / 1000;
        await files.close();
      }
    }
    return result;
  } finally {
    await client.delete(location.key);
    await client.close();
    proxy.close();
  }
}

const megabytes = (bytes: number): number => Math.round(bytes / 1e4) / 100;

/** Thirty columns of doubles that no codec makes smaller, in row groups of 122,880 rows. */
async function writeTable(path: string, rows: number): Promise<Buffer> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const instance = await DuckDBInstance.create(':memory:');
  const connection = await instance.connect();
  await connection.run('SELECT setseed(0.5)');
  const cells = Array.from({ length: 30 }, (_, i) => `random() AS c${i}`);
  await connection.run(
    `COPY (SELECT ${cells.join(', ')} FROM range(${rows})) TO '${path}' (FORMAT parquet, ROW_GROUP_SIZE 122880)`,
  );
  connection.closeSync();
  instance.closeSync();
  return readFile(path);
}
