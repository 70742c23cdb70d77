import { once } from 'node:events';
import { createServer, request as forward } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Passes requests of tests on to a server of the loopback, and counts them. */
export interface CountingProxy {
  /** Without a path. */
  readonly origin: string;
  /** Method and path with query. */
  readonly requests: string[];
  /** Of the answers' bodies. */
  bytes: number;
  close(): void;
}

export async function startCountingProxy(target: string): Promise<CountingProxy> {
  const { hostname, port } = new URL(target);
  const server = createServer((asked, answer) => {
    made.requests.push(`${asked.method} ${asked.url}`);
    // The host stays the one that the client signed.
    const { method = 'GET', url: path = '/', headers } = asked;
    const passed = forward({ hostname, port, method, path, headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.on('data', (chunk: Buffer) => {
        made.bytes += chunk.length;
      });
      response.pipe(answer);
    });
    passed.once('error', () => answer.destroy());
    asked.pipe(passed);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const made: CountingProxy = {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: [],
    bytes: 0,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
  return made;
}
