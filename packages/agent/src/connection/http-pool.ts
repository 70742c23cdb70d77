import { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { proxyFor } from '../config/proxy.js';
import type { Bandwidth } from './bandwidth.js';
import { type ConnectionSettings, readTlsMaterial } from './coordinator-client.js';

const CONNECT_TIMEOUT_MS = 10_000;
/** No byte for this long ends a request. */
export const SILENCE_TIMEOUT_MS = 60_000;

export type HttpPool = Promise<{ readonly dispatcher: Dispatcher; readonly request: typeof import('undici').request }>;

/**
 * Connections to one server that are kept open. The library is loaded with the first: an idle agent does not carry it.
 *
 * @param own the coordinator: a bucket has neither its private authority nor its name, and gets no certificate of ours
 */
export function openPool(settings: ConnectionSettings, origin: URL, own: boolean): HttpPool {
  return import('undici').then(({ Agent, ProxyAgent, request }) => {
    const port = Number(origin.port || (origin.protocol === 'https:' ? 443 : 80));
    const proxy = proxyFor(settings.proxy, { host: origin.hostname.replace(/^\[|\]$/g, ''), port });
    const { serverName } = settings.tls;
    const tls = own
      ? { ...readTlsMaterial(settings), ...(serverName === undefined ? {} : { servername: serverName }) }
      : {};
    const pooling = { keepAliveTimeout: 60_000, connections: 8, connectTimeout: CONNECT_TIMEOUT_MS };
    if (proxy === undefined) {
      return {
        request,
        dispatcher: new Agent({ ...pooling, connect: { ...tls, noDelay: true, timeout: CONNECT_TIMEOUT_MS } }),
      };
    }
    const login = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
    const dispatcher = new ProxyAgent({
      ...pooling,
      uri: `http://${proxy.host}`,
      proxyTunnel: true,
      requestTls: tls,
      ...(login === ':' ? {} : { token: `Basic ${Buffer.from(login).toString('base64')}` }),
    });
    return { request, dispatcher };
  });
}

/** What a line of 35 kbit/s sends before it is taken for silent. */
const SENT_WHOLE_BYTES = 262_144;

/**
 * Piece by piece where a limit holds, and where a slow line takes long: silence is counted anew with each piece that it
 * takes, but from the first byte of a body that is one. The length is said all the same, since buckets want to know it.
 */
export function pacedBody(
  bandwidth: Bandwidth,
  bytes: Uint8Array | undefined,
  headers: Record<string, string>,
  signal: AbortSignal,
): { headers: Record<string, string>; body?: Uint8Array | Readable } {
  if (bytes === undefined) return { headers };
  if (!bandwidth.limited && bytes.length <= SENT_WHOLE_BYTES) return { headers, body: bytes };
  const length = { 'content-length': String(bytes.length) };
  return { headers: { ...headers, ...length }, body: Readable.from(bandwidth.paced(bytes, signal)) };
}
