import { createHash, timingSafeEqual } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { FastifyReply, FastifyRequest } from 'fastify';

export interface AccessOptions {
  /** Address that the server listens on. */
  readonly host: string;
  /** Sent as `Authorization: Bearer …`. Without one, everybody on this machine may ask. */
  readonly apiKey: string | undefined;
  /** Names besides this machine's own under which the server may be addressed, such as that of a proxy. */
  readonly allowedHosts: readonly string[];
  /** Web pages that may ask, as `https://app.example`. */
  readonly corsOrigins: readonly string[];
}

const LOOPBACK_NAMES = ['localhost', '127.0.0.1', '[::1]', '::1'];

/** Whether only programs on this machine can reach the address. */
export function isLoopback(host: string): boolean {
  return LOOPBACK_NAMES.includes(host) || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** @throws OctomilError `config_invalid` where others could reach the server without a key */
export function checkAccess({ host, apiKey }: AccessOptions): void {
  if (isLoopback(host) || (apiKey !== undefined && apiKey !== '')) return;
  throw new OctomilError(
    'config_invalid',
    `on ${host} other machines can reach the server; give it an API key, or bind it to 127.0.0.1`,
  );
}

/**
 * Decides who may ask. On this machine alone, the Host header must name it: a web page whose name was pointed here (DNS
 * rebinding) sends its own. Pages of other origins get no CORS headers but those named.
 */
export function accessHook(options: AccessOptions): (request: FastifyRequest, reply: FastifyReply) => Promise<unknown> {
  const allowedHosts = new Set(
    [...LOOPBACK_NAMES, options.host, ...options.allowedHosts].map((name) => name.toLowerCase()),
  );
  const origins = new Set(options.corsOrigins);
  return async (request, reply) => {
    const host = hostName(request.headers.host ?? '');
    if (isLoopback(options.host) && !allowedHosts.has(host)) {
      throw new OctomilError(
        'forbidden',
        `this server is not "${host.slice(0, 100)}"; allow that name, or address it as 127.0.0.1 or localhost`,
      );
    }
    const { origin } = request.headers;
    if (origin !== undefined && origins.has(origin)) {
      reply.header('access-control-allow-origin', origin).header('vary', 'origin');
      reply.header('access-control-expose-headers', 'x-request-id, retry-after, x-octomil-routed-model');
      if (request.method === 'OPTIONS') {
        reply.header('access-control-allow-methods', 'GET, POST');
        reply.header('access-control-allow-headers', request.headers['access-control-request-headers'] ?? '*');
        return reply.code(204).send();
      }
    }
    if (holdsKey(options, request) || request.routeOptions.url === '/health') return undefined;
    const given = bearerOf(request);
    throw new OctomilError(
      'invalid_api_key',
      given === '' ? 'send the API key as "Authorization: Bearer …"' : 'the API key is not the one of this server',
    );
  };
}

/** Whether a request has the key, or none is needed. */
export function holdsKey({ apiKey }: Pick<AccessOptions, 'apiKey'>, request: FastifyRequest): boolean {
  return apiKey === undefined || apiKey === '' || sameText(bearerOf(request), apiKey);
}

function bearerOf(request: FastifyRequest): string {
  return /^Bearer\s+(.+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '';
}

function hostName(header: string): string {
  const name = header.toLowerCase();
  return name.startsWith('[') ? name.slice(0, name.indexOf(']') + 1) : (name.split(':', 1)[0] ?? '');
}

/** In a time that tells nothing of where they differ. */
function sameText(a: string, b: string): boolean {
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(a), hash(b));
}
