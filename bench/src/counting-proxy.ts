import { once } from 'node:events';
import { createServer, request as forward } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Passes requests on to a server of the loopback, and counts them and the bytes of their answers. */
export interface CountingProxy {
  /** Without a path. */
  readonly origin: string;
  /** Since the last call. */
  take(): { readonly requests: number; readonly bytes: number };
  close(): void;
}

export async function startCountingProxy(target: string): Promise<CountingProxy> {
  const { hostname, port } = new URL(target);
  let requests = 0;
  let bytes = 0;
  const server = createServer((asked, answer) => {
    requests += 1;
    // The host stays the one that the client signed.
    const { method = 'GET', url: path = '/', headers } = asked;
    const passed = forward({ hostname, port, method, path, headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
      });
      response.pipe(answer);
    });
    passed.once('error', () => answer.destroy());
    asked.pipe(passed);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    take: () => {
      const taken = { requests, bytes };
      requests = 0;
      bytes = 0;
      return taken;
    },
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
