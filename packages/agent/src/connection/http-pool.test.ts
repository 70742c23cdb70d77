import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { Agent, request } from 'undici';
import { unlimited } from './bandwidth.js';
import { pacedBody } from './http-pool.js';

test('a part that a slow line takes longer for than silence may last arrives whole', async () => {
  // A busy machine may stop for a second.
  const silenceMs = 3_000;
  const bytes = new Uint8Array(48 * 2 ** 20).fill(7);
  let received = 0;
  const startedMs = performance.now();
  const readSlowly = async (incoming: IncomingMessage): Promise<void> => {
    for await (const chunk of incoming) {
      received += (chunk as Buffer).length;
      // As fast as to need two of those times for all.
      await sleep(startedMs + (received / bytes.length) * 2 * silenceMs - performance.now());
    }
  };
  const server = createServer((incoming, answer) => {
    readSlowly(incoming).then(
      () => answer.end(String(incoming.headers['content-length'])),
      () => answer.destroy(),
    );
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const dispatcher = new Agent();
  try {
    const response = await request(`http://127.0.0.1:${(server.address() as AddressInfo).port}/part`, {
      ...{ dispatcher, method: 'PUT', headersTimeout: silenceMs, bodyTimeout: silenceMs },
      ...pacedBody(unlimited, bytes, {}, AbortSignal.timeout(100_000)),
    });
    expect(await response.body.text()).toBe(String(bytes.length));
    expect(received).toBe(bytes.length);
  } finally {
    await dispatcher.destroy();
    server.close();
  }
});
