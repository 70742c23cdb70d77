import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import type { Environment } from '@octomil/shared/storage';
import { SourceFiles } from './index.js';

let folder: string;
let server: Server;
let origin: string;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
const clock = { ...systemClock, sleep: async () => undefined };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-refused-'));
  server = createServer((request, response) => answer(request, response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await rm(folder, { recursive: true });
});

const s3 = (): Environment => ({
  AWS_ENDPOINT_URL_S3: origin,
  AWS_REGION: 'us-east-1',
  AWS_ACCESS_KEY_ID: 'AKIAHUSHED',
  AWS_SECRET_ACCESS_KEY: 'HUSHED-key',
  AWS_SESSION_TOKEN: 'HUSHED-token',
});
const gcs = (): Environment => ({ STORAGE_EMULATOR_HOST: origin });
const azure = (): Environment => ({
  AZURE_STORAGE_CONNECTION_STRING: `DefaultEndpointsProtocol=http;AccountName=account;AccountKey=SFVTSEVE;BlobEndpoint=${origin}/account;`,
});

async function acquire(path: string, environment: Environment, limits = {}) {
  const files = await SourceFiles.open({ folder, maxBytes: 1e6, environment, clock, ...limits });
  try {
    return await files.acquire({ path });
  } finally {
    await files.close();
  }
}

/** As the providers document them; an answer to HEAD has no body. */
function refuse(status: number, code: string, body: string, headers: Record<string, string> = {}): void {
  answer = (request, response) => {
    response.writeHead(status, {
      'content-type': body.startsWith('{') ? 'application/json' : 'application/xml',
      ...headers,
    });
    response.end(request.method === 'HEAD' ? '' : body.replaceAll('CODE', code));
  };
}

const S3_ERROR =
  '<?xml version="1.0" encoding="UTF-8"?><Error><Code>CODE</Code><Message>no</Message><Token-0>HUSHED-token</Token-0></Error>';
const AZURE_ERROR = (detail: string) =>
  `<?xml version="1.0" encoding="utf-8"?><Error><Code>CODE</Code><Message>Server failed to authenticate the request.</Message><AuthenticationErrorDetail>${detail}</AuthenticationErrorDetail></Error>`;
const GCS_ERROR = (code: number, reason: string) =>
  `{"error":{"code":${code},"message":"Invalid Credentials","errors":[{"message":"no","domain":"global","reason":"${reason}"}]}}`;

describe.each([
  ['s3://bucket/a.csv', s3],
  ['s3://bucket/folder/', s3],
])('%s', (path, environment) => {
  test.each([
    [400, 'ExpiredToken', /credentials for S3 have expired.*renew them: set AWS_ACCESS_KEY_ID.*ExpiredToken/],
    [403, 'RequestTimeTooSkewed', /have expired, or this machine's clock is wrong/],
    [403, 'InvalidAccessKeyId', /does not know these credentials/],
    [403, 'SignatureDoesNotMatch', /does not know these credentials/],
    [403, 'AccessDenied', /denies access; these credentials need s3:GetObject and s3:ListBucket/],
  ])('%i %s', async (status, code, reason) => {
    refuse(status, code, S3_ERROR);
    await expectRefused(acquire(path, environment()), reason);
  });
});

describe.each(['gs://bucket/a.csv', 'gs://bucket/folder/'])('%s', (path) => {
  test.each([
    [401, 'authError', /does not know these credentials; set GOOGLE_APPLICATION_CREDENTIALS/],
    [403, 'forbidden', /denies access; the account needs storage.objects.get/],
  ])('%i %s', async (status, code, reason) => {
    refuse(status, code, GCS_ERROR(status, code));
    await expectRefused(acquire(path, gcs()), reason);
  });
});

describe.each(['az://container/a.csv', 'az://container/folder/'])('%s', (path) => {
  test.each([
    [
      403,
      'AuthenticationFailed',
      'Signature not valid in the specified time frame: Start [Mon, 01 Jan 2024 00:00:00 GMT] - Expiry [Tue, 02 Jan 2024 00:00:00 GMT] - Current [Wed, 03 Jan 2024 00:00:00 GMT]',
      /have expired/,
    ],
    [403, 'AuthenticationFailed', 'The MAC signature found in the HTTP request is not the same', /does not know these/],
    [403, 'AuthorizationPermissionMismatch', '', /denies access/],
  ])('%i %s %s', async (status, code, detail, reason) => {
    refuse(status, code, AZURE_ERROR(detail), { 'x-ms-error-code': code });
    await expectRefused(acquire(path, azure()), reason);
  });
});

async function expectRefused(acquiring: Promise<unknown>, reason: RegExp): Promise<void> {
  const thrown = await acquiring.catch((error: unknown) => error);
  expect(thrown).toMatchObject({ code: 'data_unreadable', reason: expect.stringMatching(reason) });
  expect(inspect(thrown, { depth: 20, showHidden: true })).not.toMatch(/HUSHED|SFVTSEVE/);
}

test('a key file that is missing or no key, and no credentials at all, are told', async () => {
  await writeFile(join(folder, 'key.json'), '{"type":"service_account","client_email":"a@b","private_key":"HUSHED"}');
  const variable = 'GOOGLE_APPLICATION_CREDENTIALS';
  // The SDK looks at this process's own variables too.
  const before = { [variable]: process.env[variable], STORAGE_EMULATOR_HOST: process.env['STORAGE_EMULATOR_HOST'] };
  delete process.env['STORAGE_EMULATOR_HOST'];
  for (const [name, reason] of [
    ['key.json', /does not know these credentials/],
    ['missing.json', /no credentials for Google Cloud Storage were found/],
  ] as const) {
    process.env[variable] = join(folder, name);
    await expectRefused(acquire('gs://bucket/a.csv', { [variable]: join(folder, name) }), reason);
  }
  for (const [name, value] of Object.entries(before)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  await expectRefused(acquire('az://container/a.csv', {}), /no credentials for Azure Blob Storage were found/);
});

test('a bucket of a million keys is refused by the number of keys, and a longer prefix is read', async () => {
  const total = 1_000_000;
  let pages = 0;
  // As ListObjectsV2: by name, a thousand a page.
  const name = (n: number) => `scans/${String(n).padStart(7, '0')}.csv`;
  answer = (request, response) => {
    const url = new URL(request.url ?? '', origin);
    const prefix = url.searchParams.get('prefix') ?? '';
    if (!url.searchParams.has('list-type')) {
      response.writeHead(200, { etag: '"e"' }).end('a\n1\n');
      return;
    }
    pages += 1;
    const digits = prefix.slice('scans/'.length);
    const first = Number(digits.padEnd(7, '0'));
    const count = 10 ** (7 - digits.length);
    const from = Number(url.searchParams.get('continuation-token') ?? first);
    const to = Math.min(from + 1000, first + count, total);
    const keys = Array.from({ length: Math.max(0, to - from) }, (_, i) => name(from + i));
    const more = to < Math.min(first + count, total);
    response
      .writeHead(200, { 'content-type': 'application/xml' })
      .end(
        `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><IsTruncated>${more}</IsTruncated>${
          more ? `<NextContinuationToken>${to}</NextContinuationToken>` : ''
        }${keys.map((key) => `<Contents><Key>${key}</Key><Size>4</Size><ETag>&quot;e&quot;</ETag></Contents>`).join('')}</ListBucketResult>`,
      );
  };
  const limits = { maxListedKeys: 20_000, maxFiles: 1_000_000 };
  const thrown = await acquire('s3://bucket/scans/', s3(), limits).catch((error: unknown) => error);
  expect(thrown).toMatchObject({
    code: 'data_unreadable',
    reason: expect.stringMatching(/more than 20000 keys lie below "scans\/" \(maxListedKeys\); narrow the pattern/),
    details: { problem: 'too_many' },
  });
  // Not one page more than tells it.
  expect(pages).toBe(21);
  // The same for a pattern that would match but a few: what is before its first star narrows it.
  await expect(acquire('s3://bucket/scans/*7.csv', s3(), limits)).rejects.toMatchObject({
    details: { problem: 'too_many' },
  });
  const { source } = await acquire('s3://bucket/scans/00010*3.csv', s3(), limits);
  expect(source.fileNames).toHaveLength(10);
  await expect(acquire('s3://bucket/scans/0001*', s3(), { ...limits, maxFiles: 50 })).rejects.toMatchObject({
    reason: expect.stringMatching(/more than 50 objects match \(maxFiles\)/),
  });
}, 180_000);
