import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import {
  type BucketClient,
  type Environment,
  openBucket,
  parseBucketUrl,
  resumingStream,
} from '@octomil/shared/storage';
import { parquetReadObjects } from 'hyparquet';
import { asyncBufferFromFile } from 'hyparquet/src/node.js';
import { compressors } from 'hyparquet-compressors';
import { cannotShow, testUnless } from '../../storage/buckets/stand-in-server.js';
import { openTable } from '../open-table.js';
import { openSource, SourceFiles, TemporaryCopies } from './index.js';
import { startCountingProxy } from './testing/counting-proxy.js';

const AZURE_KEY = /AccountKey=([^;]+)/.exec(process.env['AZURE_STORAGE_CONNECTION_STRING'] ?? '')?.[1];
const AZURE_ENDPOINT = /BlobEndpoint=([^;]+)/.exec(process.env['AZURE_STORAGE_CONNECTION_STRING'] ?? '')?.[1] ?? '';
const OTHER_KEY = Buffer.from('another-HUSHED-key').toString('base64');

interface Cloud {
  readonly name: string;
  readonly variable: string;
  readonly noBucket: string;
  /** Environments whose credentials do not work, and what is said of them; none where the server checks none. */
  readonly refused: readonly { readonly environment: Environment; readonly reason: RegExp }[];
  /** Other ways to give credentials. */
  readonly accepted: readonly Environment[];
  /** Where the server is, and the environment in which it is elsewhere. */
  readonly server: string;
  at(origin: string): Environment;
}

const without = (...names: string[]): Environment =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !names.some((start) => name.startsWith(start))));

const CLOUDS: Cloud[] = [
  {
    name: 'S3',
    variable: 'TEST_S3_URL',
    noBucket: 's3://no-such-bucket-here/x.csv',
    refused: [
      {
        environment: { ...process.env, AWS_SECRET_ACCESS_KEY: 'a-HUSHED-key-that-is-wrong' },
        reason: /does not know these credentials|denies access/,
      },
      {
        environment: { ...process.env, AWS_ACCESS_KEY_ID: 'NOBODY', AWS_SECRET_ACCESS_KEY: 'HUSHED' },
        reason: /does not know these credentials|denies access/,
      },
    ],
    accepted: [
      {
        ...without('AWS_REGION', 'AWS_ENDPOINT'),
        AWS_DEFAULT_REGION: 'us-east-1',
        AWS_ENDPOINT_URL: process.env['AWS_ENDPOINT_URL_S3'],
      },
    ],
    server: process.env['AWS_ENDPOINT_URL_S3'] ?? '',
    at: (origin) => ({ ...process.env, AWS_ENDPOINT_URL_S3: origin }),
  },
  {
    name: 'GCS',
    variable: 'TEST_GCS_URL',
    noBucket: 'gs://no-such-bucket-here/x.csv',
    refused: [],
    accepted: [],
    server: process.env['STORAGE_EMULATOR_HOST'] ?? '',
    at: (origin) => ({ ...process.env, STORAGE_EMULATOR_HOST: origin }),
  },
  {
    name: 'Azure',
    variable: 'TEST_AZURE_URL',
    noBucket: 'az://no-such-container-here/x.csv',
    refused: [
      {
        environment: {
          AZURE_STORAGE_ACCOUNT_NAME: 'devstoreaccount1',
          AZURE_STORAGE_ACCOUNT_KEY: OTHER_KEY,
          AZURE_STORAGE_BLOB_ENDPOINT: AZURE_ENDPOINT,
        },
        reason: /does not know these credentials|denies access/,
      },
      {
        environment: {},
        reason: /no credentials for Azure Blob Storage were found; set AZURE_STORAGE_CONNECTION_STRING/,
      },
      { environment: { AZURE_STORAGE_CONNECTION_STRING: 'AccountKey=HUSHED' }, reason: /is no connection string/ },
    ],
    accepted: [
      {
        AZURE_STORAGE_ACCOUNT_NAME: 'devstoreaccount1',
        AZURE_STORAGE_ACCOUNT_KEY: AZURE_KEY,
        AZURE_STORAGE_BLOB_ENDPOINT: AZURE_ENDPOINT,
      },
    ],
    server: AZURE_ENDPOINT.replace(/\/devstoreaccount1$/, ''),
    at: (origin) => ({
      AZURE_STORAGE_CONNECTION_STRING: process.env['AZURE_STORAGE_CONNECTION_STRING']?.replace(
        AZURE_ENDPOINT.replace(/\/devstoreaccount1$/, ''),
        origin,
      ),
    }),
  },
];

for (const cloud of CLOUDS) {
  const base = process.env[cloud.variable];
  if (base === undefined) {
    test.skip(`sources on ${cloud.name}: ${cloud.variable} is not set; run through scripts/with-clouds.js`, () =>
      undefined);
    continue;
  }
  const server = cloud.variable.replace('_URL', '_SERVER');
  describe(`sources on ${cloud.name}`, () => {
    const options = { environment: process.env, clock: systemClock };
    const prefix = randomUUID();
    const url = (key: string) => `${base}/${prefix}/${key}`;
    let folder: string;
    let client: BucketClient;
    let copies: TemporaryCopies;
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'octomil-sources-'));
      copies = await TemporaryCopies.open({ folder, maxBytes: 10_000_000, clock: systemClock });
      const location = parseBucketUrl(`${base}/`);
      if (location === undefined) throw new TypeError(`${base} is no bucket`);
      client = await openBucket(location.address, { environment: process.env, purpose: 'source' });
      for (const key of ['y=2025/a.csv', 'y=2025/b c+ä.csv', 'y=2026/a.csv', 'y=2026/_SUCCESS', 'other/x.parquet']) {
        await client.put(`${prefix}/${key}`, Buffer.from(`key\n${key}\n`));
      }
    });
    afterAll(async () => {
      await client.close();
      await copies.close();
      expect(await readdir(folder)).toEqual([]);
      await rm(folder, { recursive: true });
    });

    const places = async (text: string, environment: Environment = process.env) => {
      const opened = await openSource(text, copies, { ...options, environment });
      await opened.release();
      return opened.files.map(({ place }) => place.slice(place.indexOf(prefix) + prefix.length + 1));
    };

    test('one object, a prefix and a pattern of many', async () => {
      expect(await places(url('y=2025/b c+ä.csv'))).toEqual(['y=2025/b c+ä.csv']);
      expect(await places(url('y=2026/'))).toEqual(['y=2026/a.csv']);
      expect(await places(url('*/a.csv'))).toEqual(['y=2025/a.csv', 'y=2026/a.csv']);
      expect(await places(url('**'))).toHaveLength(5);
      const { files, release } = await openSource(url('y=2025/b c+ä.csv'), copies, options);
      expect(await readFile(files[0]?.path ?? '', 'utf8')).toBe('key\ny=2025/b c+ä.csv\n');
      await release();
    });

    const noPages = cannotShow(server, 'lists of several pages');
    testUnless(
      noPages,
      'a listing of several pages keeps only what matches, and is bounded',
      async () => {
        await Promise.all(
          Array.from({ length: 8 }, async (_, worker) => {
            for (let n = worker; n < 1100; n += 8) await client.put(`${prefix}/many/${n}.csv`, Buffer.from('a'));
          }),
        );
        let listed = 0;
        for await (const { key } of client.list(`${prefix}/many/`)) listed += key.endsWith('.csv') ? 1 : 0;
        expect(listed).toBe(1100);
        const limited = openSource(url('many/'), copies, { ...options, maxFiles: 1000 });
        await expect(limited).rejects.toMatchObject({ code: 'data_unreadable', details: { problem: 'too_many' } });
        const few = openSource(url('many/*.tsv'), copies, { ...options, maxListedKeys: 500 });
        await expect(few).rejects.toMatchObject({ details: { problem: 'too_many' } });
        expect(await places(url('many/109?.csv'))).toHaveLength(10);
      },
      240_000,
    );

    test('what is unchanged is not read again; ranges are of one version', async () => {
      const key = `${prefix}/versions.parquet`;
      await client.put(key, Buffer.from('first version'));
      const first = await openSource(url('versions.parquet'), copies, options);
      const again = await openSource(url('versions.parquet'), copies, options);
      expect(again.files).toEqual(first.files);
      const object = await client.stat(key);
      if (object === undefined) throw new TypeError('what was put is not there');
      const text = async (start: number, end: number) => {
        const chunks: Uint8Array[] = [];
        const range = { start, end };
        for await (const chunk of resumingStream(client, object, { clock: options.clock, range })) chunks.push(chunk);
        return Buffer.concat(chunks).toString();
      };
      expect([await text(0, 5), await text(6, 13)]).toEqual(['first', 'version']);
      // Same size, so that nothing but its version tells.
      await client.put(key, Buffer.from('other version'));
      await expect(text(0, 5)).rejects.toMatchObject({ code: 'data_unreadable', details: { problem: 'changed' } });
      const newer = await openSource(url('versions.parquet'), copies, options);
      expect(await readFile(newer.files[0]?.path ?? '', 'utf8')).toBe('other version');
      for (const opened of [first, again, newer]) await opened.release();
    });

    test('three of thirty columns of a row group take at most six requests; the table has the values of the whole', async () => {
      const bytes = await wideParquet(folder);
      await client.put(`${prefix}/wide.parquet`, bytes);
      const proxy = await startCountingProxy(cloud.server);
      const environment = cloud.at(proxy.origin);
      const files = await SourceFiles.open({
        folder: join(folder, 'sparse'),
        maxBytes: bytes.length / 2,
        environment,
        clock: systemClock,
      });
      const source = { path: url('wide.parquet') };
      const columns = ['c3', 'c14', 'c27'];
      const preview = await files.acquire(source, { columns, maxRows: 1000 });
      expect(proxy.requests.length).toBeLessThanOrEqual(6);
      const chunksBytes = 3 * 20_480 * 8;
      expect(proxy.bytes).toBeLessThan(chunksBytes * 1.05 + 70_000);
      const file = await asyncBufferFromFile(preview.source.files?.[0] ?? '');
      const range = { columns, rowStart: 0, rowEnd: 20_480, compressors };
      const wanted = await parquetReadObjects({
        file: await asyncBufferFromFile(join(folder, 'wide.parquet')),
        ...range,
      });
      expect(JSON.stringify(await parquetReadObjects({ file, ...range }))).toBe(JSON.stringify(wanted));
      const whole = await files.acquire(source, { columns });
      expect(proxy.bytes).toBeLessThan(3 * (chunksBytes * 1.05) + 70_000);
      const sums: number[][] = [];
      for (const opened of [whole.source, { path: join(folder, 'wide.parquet') }]) {
        const reader = await openTable(opened);
        const of: number[] = [];
        for await (const chunk of reader.stream(columns.map((column) => ({ column, as: 'number' as const })))) {
          for (const [i, values] of chunk.columns.entries()) {
            for (let row = 0; row < chunk.rows; row++) of[i] = (of[i] ?? 0) + (values[row] ?? Number.NaN);
          }
        }
        reader.close();
        sums.push(of);
      }
      expect(sums[0]).toHaveLength(3);
      expect(sums[0]).toEqual(sums[1]);
      // The next round asks for the version, and nothing else.
      proxy.requests.length = 0;
      await files.acquire(source, { columns });
      expect(await files.version(source)).toBe(whole.source.digest);
      expect(proxy.requests.length).toBeLessThanOrEqual(2);
      await files.close();
      await rm(join(folder, 'sparse'), { recursive: true });
      await rm(join(folder, 'wide.parquet'));
      proxy.close();
    }, 240_000);

    test('a missing object and a missing bucket are told apart', async () => {
      await expect(places(url('missing.csv'))).rejects.toMatchObject({
        code: 'data_unreadable',
        details: { problem: 'missing_object' },
      });
      for (const text of [cloud.noBucket, cloud.noBucket.replace('x.csv', '*.csv')]) {
        await expect(places(text)).rejects.toMatchObject({
          code: 'data_unreadable',
          details: { problem: 'missing_bucket' },
        });
      }
      await expect(places(url('nothing/'))).rejects.toMatchObject({ code: 'data_unreadable' });
    });

    const noChecks = cannotShow(server, 'checked credentials');
    const noSignatures = cloud.refused.length === 0 ? 'the server checks no signature' : noChecks;
    testUnless(noSignatures, 'what was signed for a while is refused after it, without its signature', async () => {
      const key = `${prefix}/y=2026/a.csv`;
      const signed = new URL((await client.presignGet(key, cloud.name === 'S3' ? 1000 : -3_600_000)).url);
      const path = cloud.name === 'S3' ? signed.href : url('y=2026/a.csv');
      const environment = {
        AZURE_STORAGE_ACCOUNT_NAME: 'devstoreaccount1',
        AZURE_STORAGE_SAS_TOKEN: signed.search,
        AZURE_STORAGE_BLOB_ENDPOINT: AZURE_ENDPOINT,
      };
      if (cloud.name === 'S3') await systemClock.sleep(2100);
      const thrown = await openSource(path, copies, { ...options, environment }).catch((error: unknown) => error);
      expect(thrown).toMatchObject({
        code: 'data_unreadable',
        reason: expect.stringMatching(
          cloud.name === 'S3' ? /if it was signed, sign it again/ : /credentials for Azure.* have expired/,
        ),
      });
      const shown = inspect(thrown, { depth: 20, showHidden: true });
      const signature = signed.searchParams.get('X-Amz-Signature') ?? signed.searchParams.get('sig') ?? 'no signature';
      for (const secret of [signature, encodeURIComponent(signature)]) expect(shown).not.toContain(secret);
    });

    testUnless(noChecks, 'credentials that do not work are named by what to do, never by what they are', async () => {
      for (const { environment, reason } of cloud.refused) {
        const thrown = await places(url('y=2026/'), environment).catch((error: unknown) => error);
        expect(thrown).toMatchObject({ reason: expect.stringMatching(reason) });
        const shown = inspect(thrown, { depth: 20, showHidden: true });
        for (const secret of ['HUSHED', OTHER_KEY, AZURE_KEY])
          if (secret !== undefined) expect(shown).not.toContain(secret);
      }
      for (const environment of cloud.accepted) {
        expect(await places(url('y=2026/'), environment)).toEqual(['y=2026/a.csv']);
      }
    });
  });
}

/** Thirty columns of doubles that no codec makes smaller, in three row groups: 15 MB. */
async function wideParquet(folder: string): Promise<Buffer> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const instance = await DuckDBInstance.create(':memory:', { threads: '1' });
  const connection = await instance.connect();
  const cells = Array.from({ length: 30 }, (_, i) => `random() AS c${i}`);
  const path = join(folder, 'wide.parquet');
  await connection.run(
    `COPY (SELECT ${cells.join(', ')} FROM range(61440)) TO '${path}' (FORMAT parquet, ROW_GROUP_SIZE 20480)`,
  );
  connection.closeSync();
  instance.closeSync();
  return readFile(path);
}
