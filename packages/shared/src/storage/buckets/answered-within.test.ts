import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';
import { answeredWithin } from './answered-within.js';
import { networkProblem } from './bucket-problem.js';
import { openBucket } from './index.js';

test('an answer counts in time; none ends it, and so does the signal', async () => {
  expect(await answeredWithin(Promise.resolve(3), 1_000)).toBe(3);
  const silence = new Promise<never>(() => undefined);
  const late: unknown = await answeredWithin(silence, 10).catch((error: unknown) => error);
  expect(networkProblem(late)).toBe('timeout');
  expect(late).not.toHaveProperty('code');
  const reason = new Error('stopped');
  await expect(answeredWithin(silence, 60_000, AbortSignal.abort(reason))).rejects.toBe(reason);
});

test('a question that Google never answers can be called off', async () => {
  const stopping = new AbortController();
  const { promise: asked, resolve: tellAsked } = Promise.withResolvers<ServerResponse>();
  const server = createServer((_, response) => {
    tellAsked(response);
    stopping.abort(new Error('stopped'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const environment = { STORAGE_EMULATOR_HOST: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
  const client = await openBucket({ provider: 'gs', bucket: 'bucket' }, { environment, purpose: 'source' });
  try {
    await expect(client.stat('key', stopping.signal)).rejects.toThrow('stopped');
  } finally {
    await client.close();
    // Answered after all: without an answer the SDK would ask again while another test runs.
    (await asked).writeHead(404, { connection: 'close' }).end();
    server.close();
    await once(server, 'close');
  }
}, 20_000);
