import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

export interface Balancer {
  readonly port: number;
  close(): Promise<void>;
}

/** One address in front of several coordinators: each connection goes to the next one that takes it. */
export async function startBalancer(ports: readonly number[], port = 0): Promise<Balancer> {
  const sockets = new Set<Socket>();
  let turn = 0;
  const server = createServer((client) => {
    sockets.add(client);
    client.on('error', () => client.destroy()).on('close', () => sockets.delete(client));
    const first = turn++;
    const attempt = (tried: number): void => {
      const target = ports[(first + tried) % ports.length];
      if (target === undefined || tried === ports.length || client.destroyed) {
        client.destroy();
        return;
      }
      const upstream = connect(target, '127.0.0.1');
      sockets.add(upstream);
      upstream.once('error', () => {
        sockets.delete(upstream);
        if (!upstream.connecting && upstream.bytesWritten > 0) client.destroy();
        else attempt(tried + 1);
      });
      upstream.once('connect', () => {
        upstream.removeAllListeners('error');
        upstream.on('error', () => client.destroy()).on('close', () => client.destroy());
        client.on('close', () => upstream.destroy());
        client.pipe(upstream).pipe(client);
      });
    };
    attempt(0);
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return {
    port: address !== null && typeof address === 'object' ? address.port : 0,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
