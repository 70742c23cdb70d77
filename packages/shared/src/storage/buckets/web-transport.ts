import { readFileSync } from 'node:fs';
import { rootCertificates } from 'node:tls';
import type { Dispatcher } from 'undici';
import { type Environment, proxiesOf } from './proxies.js';

/** HTTP for S3, plain https and downloads from GCS, with the proxies of the environment. */
export interface WebTransport {
  readonly request: typeof import('undici').request;
  readonly dispatcher: Dispatcher;
}

export const CONNECT_TIMEOUT_MS = 10_000;
/** No byte for this long ends a request, unless another time is given. */
export const SILENCE_TIMEOUT_MS = 60_000;

/**
 * @param environment where proxies are read
 * @param caFile PEM file of certificate authorities besides the usual ones
 * @param silenceMs without a byte ends a request
 */
export async function openWebTransport(
  environment: Environment,
  caFile?: string,
  silenceMs = SILENCE_TIMEOUT_MS,
): Promise<WebTransport> {
  const { Agent, EnvHttpProxyAgent, request } = await import('undici');
  const { https: httpsProxy, http: httpProxy, noProxy } = proxiesOf(environment);
  const ca = caFile === undefined ? undefined : [...rootCertificates, readFileSync(caFile, 'utf8')];
  const options = {
    connections: 16,
    headersTimeout: silenceMs,
    bodyTimeout: silenceMs,
    connect: { timeout: CONNECT_TIMEOUT_MS, ...(ca === undefined ? {} : { ca }) },
  };
  if (httpsProxy === undefined && httpProxy === undefined) return { request, dispatcher: new Agent(options) };
  return {
    request,
    dispatcher: new EnvHttpProxyAgent({
      ...options,
      httpsProxy: httpsProxy ?? '',
      httpProxy: httpProxy ?? '',
      noProxy: noProxy.join(','),
      ...(ca === undefined ? {} : { requestTls: { ca } }),
    }),
  };
}
