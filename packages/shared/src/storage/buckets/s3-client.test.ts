import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';
import { openBucket } from './index.js';

const HOUR_MS = 3_600_000;

test('requests for others are signed by the clock of the bucket, once it is known', async () => {
  const server = createServer((request, response) => {
    const date = new Date(Date.now() + HOUR_MS).toUTCString();
    const headers = { date, 'content-length': '5', etag: '"x"', 'last-modified': date };
    response.writeHead(200, headers).end(request.method === 'HEAD' ? undefined : 'hello');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const environment = {
    AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    AWS_ACCESS_KEY_ID: 'a',
    AWS_SECRET_ACCESS_KEY: 'b',
  };
  const client = await openBucket({ provider: 's3', bucket: 'bucket' }, { environment, purpose: 'store' });
  try {
    await client.stat('key');
    const { url } = await client.presignGet('key', 900_000);
    const signed = new URL(url).searchParams.get('X-Amz-Date') ?? '';
    const signedAtMs = Date.parse(signed.replace(/^(....)(..)(..T..)(..)(..Z)$/, '$1-$2-$3:$4:$5'));
    expect(signedAtMs - Date.now()).toBeGreaterThan(HOUR_MS / 2);
  } finally {
    await client.close();
    server.close();
  }
});
