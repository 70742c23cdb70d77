import { expect, test } from '@jest/globals';
import { HttpTransfers } from './http-transfers.js';

const offered = (transferUrl: string, host: string, insecure = false): string =>
  new HttpTransfers(
    {
      coordinator: { host, port: 8001, tls: true },
      tls: {},
      proxy: { url: undefined, explicit: false, noProxy: [] },
      insecure,
    } as ConstructorParameters<typeof HttpTransfers>[0],
    () => 'odc_secret',
  ).offer(transferUrl);

test.each([
  ['https://fed.example/base', 'fed.example', 'http'],
  ['http://127.0.0.1:8000', 'localhost', 'http'],
  ['http://fed.example', 'fed.example', 'unsafe'],
  ['', 'fed.example', 'none'],
  // A coordinator elsewhere must not send this agent to the services of its own machine.
  ['http://127.0.0.1:9200', 'fed.example', 'unsafe'],
  ['https://localhost:9200', 'fed.example', 'unsafe'],
  ['http://[::1]:9200', 'fed.example', 'unsafe'],
  // Nor choose what is asked: paths are appended.
  ['https://fed.example/delete?x=', 'fed.example', 'unsafe'],
  ['https://fed.example/#', 'fed.example', 'unsafe'],
  ['https://user:word@fed.example', 'fed.example', 'unsafe'],
  ['ftp://127.0.0.1', 'localhost', 'unsafe'],
])('transfers offered at %s by a coordinator at %s: %s', (url, host, expected) => {
  expect(offered(url, host)).toBe(expected);
});

test('plaintext over the network only where the site said so', () => {
  expect(offered('http://fed.example', 'fed.example', true)).toBe('http');
  expect(offered('http://127.0.0.1:9200', 'fed.example', true)).toBe('unsafe');
});
