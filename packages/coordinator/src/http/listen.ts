import { OctomilError } from '@octomil/shared/errors';
import type { App } from './app.js';

/**
 * Begins to serve, and answers the base URL.
 *
 * @throws OctomilError `port_in_use` naming port and setting
 */
export async function listen(
  app: App,
  { host, port, tls }: { host: string; port: number; tls: boolean },
): Promise<string> {
  try {
    await app.listen({ host, port });
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    if (code === 'EADDRINUSE') {
      throw new OctomilError(
        'port_in_use',
        `port ${port} on ${host} is in use; stop what uses it, or set OCTOMIL_REST_PORT to another (0: a free one)`,
        { cause: error, details: { port, setting: 'OCTOMIL_REST_PORT' } },
      );
    }
    if (code === 'EADDRNOTAVAIL' || code === 'EACCES' || code === 'ENOTFOUND') {
      throw new OctomilError('config_invalid', `cannot listen on OCTOMIL_HOST=${host}, port ${port}: ${code}`, {
        cause: error,
      });
    }
    throw error;
  }
  const address = app.server.address();
  const bound = typeof address === 'object' && address !== null ? address.port : port;
  // An address that stands for all of them cannot be connected to; this machine's own can.
  const name = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host;
  return `${tls ? 'https' : 'http'}://${name.includes(':') ? `[${name}]` : name}:${bound}`;
}
