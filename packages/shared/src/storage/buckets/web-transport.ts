import { readFileSync } from 'node:fs';
import { rootCertificates } from 'node:tls';
import type { Dispatcher } from 'undici';

export type Environment = Readonly<Record<string, string | undefined>>;

/** HTTP for S3 and plain https, with the proxies of the environment; the other SDKs read these variables themselves. */
export interface WebTransport {
  readonly request: typeof import('undici').request;
  readonly dispatcher: Dispatcher;
}

export const CONNECT_TIMEOUT_MS = 10_000;
/** No byte for this long ends a request. */
export const SILENCE_TIMEOUT_MS = 60_000;

/**
 * Reads HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY (lower case first, as in curl). The loopback is reached without
 * a proxy.
 *
 * @param caFile PEM file of certificate authorities besides the usual ones
 */
export async function openWebTransport(environment: Environment, caFile?: string): Promise<WebTransport> {
  const { Agent, EnvHttpProxyAgent, request } = await import('undici');
  const all = read(environment, 'all_proxy');
  const httpsProxy = read(environment, 'https_proxy') ?? all;
  const httpProxy = read(environment, 'http_proxy') ?? all;
  const ca = caFile === undefined ? undefined : [...rootCertificates, readFileSync(caFile, 'utf8')];
  const options = {
    connections: 16,
    headersTimeout: SILENCE_TIMEOUT_MS,
    bodyTimeout: SILENCE_TIMEOUT_MS,
    connect: { timeout: CONNECT_TIMEOUT_MS, ...(ca === undefined ? {} : { ca }) },
  };
  if (httpsProxy === undefined && httpProxy === undefined) return { request, dispatcher: new Agent(options) };
  const noProxy = [read(environment, 'no_proxy'), 'localhost', '127.0.0.1', '[::1]'].filter(Boolean).join(',');
  return {
    request,
    dispatcher: new EnvHttpProxyAgent({
      ...options,
      httpsProxy: httpsProxy ?? '',
      httpProxy: httpProxy ?? '',
      noProxy,
      ...(ca === undefined ? {} : { requestTls: { ca } }),
    }),
  };
}

function read(environment: Environment, name: string): string | undefined {
  return environment[name] || environment[name.toUpperCase()] || undefined;
}
