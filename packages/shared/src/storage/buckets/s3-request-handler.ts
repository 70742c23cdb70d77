import type { S3ClientConfig } from '@aws-sdk/client-s3';
import type { WebTransport } from './web-transport.js';

type RequestHandler = Extract<NonNullable<S3ClientConfig['requestHandler']>, { handle: unknown }>;
type HttpRequest = Parameters<RequestHandler['handle']>[0];

/** Lets the AWS SDK use our transport: its own knows nothing of proxies. */
export function s3RequestHandler({ request, dispatcher }: WebTransport): RequestHandler {
  const handle = async (asked: HttpRequest, options: { abortSignal?: unknown } = {}) => {
    // Undici refuses it, it is not signed, and servers that insist on it do not exist.
    const { expect: _, Expect: __, ...headers } = asked.headers;
    const response = await request(urlOf(asked), {
      dispatcher,
      method: asked.method as 'GET',
      headers,
      ...(asked.body === undefined || asked.body === null ? {} : { body: asked.body }),
      ...(options.abortSignal === undefined ? {} : { signal: options.abortSignal as AbortSignal }),
    }).catch((error: unknown) => {
      throw asSdkError(error);
    });
    const flat: Record<string, string> = {};
    for (const [name, value] of Object.entries(response.headers)) {
      if (value !== undefined) flat[name] = Array.isArray(value) ? value.join(', ') : value;
    }
    return { response: { statusCode: response.statusCode, headers: flat, body: response.body } };
  };
  return {
    metadata: { handlerProtocol: 'http/1.1' },
    handle,
    destroy: () => undefined,
    updateHttpClientConfig: () => undefined,
    httpHandlerConfigs: () => ({}),
  } as unknown as RequestHandler;
}

function urlOf({ protocol, hostname, port, path, query }: HttpRequest): string {
  const parameters: string[] = [];
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      parameters.push(one === null ? encode(name) : `${encode(name)}=${encode(one)}`);
    }
  }
  const host = hostname.includes(':') && !hostname.startsWith('[') ? `[${hostname}]` : hostname;
  const search = parameters.length === 0 ? '' : `?${parameters.join('&')}`;
  return `${protocol}//${host}${port === undefined ? '' : `:${port}`}${path}${search}`;
}

/** As signatures have it (RFC 3986). */
function encode(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** The SDK retries what has the names that its own transport throws. */
function asSdkError(error: unknown): unknown {
  const code = (error as { code?: unknown }).code;
  if (typeof code !== 'string' || !code.startsWith('UND_ERR_')) return error;
  if (code.endsWith('_TIMEOUT'))
    return Object.assign(new DOMException('no answer in time', 'TimeoutError'), { cause: error });
  return Object.assign(error as object, { code: 'ECONNRESET' });
}
