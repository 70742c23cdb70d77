import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { AgentMetrics } from './agent-metrics.js';

export interface HealthServer {
  readonly port: number;
  stop(): Promise<void>;
}

export interface HealthServerOptions {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly metrics: AgentMetrics;
  /** Undefined while the agent is in session; else why it is not. */
  readonly notReady: () => string | undefined;
}

/**
 * Serves `/healthz` (the process runs), `/readyz` (it is in session) and `/metrics`.
 *
 * @throws OctomilError `port_in_use`
 */
export async function startHealthServer(options: HealthServerOptions): Promise<HealthServer> {
  const { host, port, metrics, notReady } = options;
  const server = createServer((request, response) => {
    const answer = (status: number, type: string, body: string): void => {
      response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) });
      response.end(request.method === 'HEAD' ? undefined : body);
    };
    const json = (status: number, body: object): void => answer(status, 'application/json', JSON.stringify(body));
    if (request.method !== 'GET' && request.method !== 'HEAD')
      return json(405, { code: 'invalid_input', message: 'use GET' });
    const [path = ''] = (request.url ?? '').split('?');
    switch (path) {
      case '/healthz':
        return json(200, { status: 'ok' });
      case '/readyz': {
        const reason = notReady();
        return reason === undefined ? json(200, { status: 'ready' }) : json(503, { status: 'not_ready', reason });
      }
      case '/metrics':
        return answer(200, 'text/plain; version=0.0.4; charset=utf-8', metrics.render());
      default:
        return json(404, { code: 'not_found', message: 'there are /healthz, /readyz and /metrics' });
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'EADDRINUSE'
          ? new OctomilError('port_in_use', `metrics port ${port} on ${host} is taken; set another metrics.port`, {
              cause: error,
            })
          : toOctomilError(error, 'config_invalid'),
      ),
    );
    server.listen(port, host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
