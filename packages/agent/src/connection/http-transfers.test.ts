import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';
import { HttpTransfers } from './http-transfers.js';

const transfersOf = (host: string, insecure = false): HttpTransfers =>
  new HttpTransfers(
    {
      coordinator: { host, port: 8001, tls: true },
      tls: {},
      proxy: { url: undefined, explicit: false, noProxy: [] },
      insecure,
    } as ConstructorParameters<typeof HttpTransfers>[0],
    () => 'odc_secret',
  );

const offered = (transferUrl: string, host: string, insecure = false): string =>
  transfersOf(host, insecure).offer(transferUrl);

test.each([
  ['https://fed.example/base', 'fed.example', 'http'],
  ['http://127.0.0.1:8000', 'localhost', 'http'],
  ['http://fed.example', 'fed.example', 'unsafe'],
  ['', 'fed.example', 'none'],
  // A coordinator elsewhere must not send this agent to the services of its own machine.
  ['http://127.0.0.1:9200', 'fed.example', 'unsafe'],
  ['https://localhost:9200', 'fed.example', 'unsafe'],
  ['http://[::1]:9200', 'fed.example', 'unsafe'],
  ['https://[::ffff:127.0.0.1]:9200', 'fed.example', 'unsafe'],
  ['https://0.0.0.0:9200', 'fed.example', 'unsafe'],
  ['https://localhost.:9200', 'fed.example', 'unsafe'],
  ['https://169.254.169.254', 'fed.example', 'unsafe'],
  ['https://[::ffff:8.8.8.8]', 'fed.example', 'http'],
  // Nor choose what is asked: paths are appended.
  ['https://fed.example/delete?x=', 'fed.example', 'unsafe'],
  ['https://fed.example/#', 'fed.example', 'unsafe'],
  ['https://user:word@fed.example', 'fed.example', 'unsafe'],
  ['ftp://127.0.0.1', 'localhost', 'unsafe'],
])('transfers offered at %s by a coordinator at %s: %s', (url, host, expected) => {
  expect(offered(url, host)).toBe(expected);
});

test.each([
  ['https://127.0.0.1:9200/x', 'fed.example'],
  ['https://0.0.0.0:9200/x', 'fed.example'],
  ['https://2130706433/x', 'fed.example'],
  ['https://[::]:9200/x', 'fed.example'],
  ['https://169.254.169.254/latest', 'fed.example'],
  ['http://169.254.169.254/latest', 'localhost'],
  ['http://bucket.example/x', 'fed.example'],
  ['https://user:word@bucket.example/x', 'fed.example'],
])('nothing is fetched from %s because a coordinator at %s says so', async (url, host) => {
  const fetched = transfersOf(host).downloadDirect({ url, headers: {} }, 0, new AbortController().signal);
  await expect(fetched.next()).rejects.toMatchObject({ code: 'policy_denied' });
});

test('plaintext over the network only where the site said so', () => {
  expect(offered('http://fed.example', 'fed.example', true)).toBe('http');
  expect(offered('http://127.0.0.1:9200', 'fed.example', true)).toBe('unsafe');
});

test.each([
  ['a verdict', 200, { code: 'too_large', details: { limitBytes: 65_536 } }],
  // The body of an error is worth nothing to whoever cannot read it; its status still tells.
  ['an error', 403, { code: 'forbidden', reason: expect.stringMatching(/403/) }],
])('%s without an end is not read to its end', async (_what, status, expected) => {
  let sentBytes = 0;
  const closed = Promise.withResolvers<void>();
  const server = createServer((_request, response) => {
    response.writeHead(status, { 'content-type': 'application/json' }).on('close', () => closed.resolve());
    const pour = (): void => {
      while (!response.destroyed && sentBytes < 256 * 1_048_576) {
        sentBytes += 65_536;
        if (!response.write(Buffer.alloc(65_536, ' '))) {
          response.once('drain', pour);
          return;
        }
      }
      response.end('{"accepted":true}');
    };
    pour();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const transfers = transfersOf('127.0.0.1');
  try {
    transfers.offer(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    const asked = transfers.complete({ ticketId: 't', token: 'secret' }, new AbortController().signal);
    await expect(asked).rejects.toMatchObject(expected);
    await closed.promise;
    expect(sentBytes).toBeLessThan(64 * 1_048_576);
  } finally {
    await transfers.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});
