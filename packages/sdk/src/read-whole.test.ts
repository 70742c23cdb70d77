import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from '@jest/globals';
import { bodyChunks, readWhole } from './read-whole.js';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

/** Answers with the body and closes the connection, as HTTP/1.0 proxies and some object stores do. */
async function answerOf(bytes: Uint8Array, { announced = bytes.length } = {}): Promise<Response> {
  const server = createServer((socket) => {
    socket.once('data', () => {
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${announced}\r\nConnection: close\r\n\r\n`);
      socket.end(bytes);
    });
    socket.on('error', () => undefined);
  }).listen(0, '127.0.0.1');
  servers.push(server);
  await once(server, 'listening');
  return fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
}

test('a server that closes the connection while chunks wait for a slow disk does not end the process', async () => {
  // How much of a body has to wait for that depends on how it falls into pieces.
  for (let kib = 64; kib <= 640; kib += 64) {
    const bytes = Buffer.alloc(kib * 1024, 'abc');
    const taken: Uint8Array[] = [];
    for await (const chunk of bodyChunks(await answerOf(bytes), 10_000)) {
      taken.push(chunk);
      await sleep(20);
    }
    expect(Buffer.concat(taken).equals(bytes)).toBe(true);
  }
});

test('what came before a connection broke is handed over first', async () => {
  const bytes = Buffer.alloc(100_000, 1);
  const taken: Uint8Array[] = [];
  const reading = (async () => {
    for await (const chunk of bodyChunks(await answerOf(bytes, { announced: 200_000 }), 10_000)) taken.push(chunk);
  })();
  await expect(reading).rejects.toThrow();
  expect(Buffer.concat(taken).length).toBe(bytes.length);
});

test('who takes no more ends the reading; an empty body has no chunk', async () => {
  const bytes = Buffer.alloc(64 * 2 ** 20);
  for await (const chunk of bodyChunks(await answerOf(bytes), 10_000)) {
    expect(chunk.length).toBeGreaterThan(0);
    break;
  }
  expect(await readWhole(await answerOf(Buffer.alloc(0)), 10_000)).toHaveLength(0);
});

test('silence ends it', async () => {
  const silent = new Response(new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(3)) }));
  await expect(readWhole(silent, 50)).rejects.toMatchObject({ code: 'request_timeout' });
});
