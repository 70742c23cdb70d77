import { OctomilError } from '@octomil/shared/errors';
import {
  BucketErrors,
  type BucketObject,
  type Environment,
  networkProblem,
  openWebTransport,
  problemOfStatus,
  type ReadOptions,
  type SourceClient,
  type WebTransport,
} from '@octomil/shared/storage';
import type { Dispatcher } from 'undici';

const MAX_REDIRECTS = 5;

/**
 * Objects on the web. Keys are whole URLs, which may hold a signature; they are never quoted, only `display`.
 * Redirects are followed, never from https to plaintext.
 */
export async function openWebClient(environment: Environment, display: string): Promise<SourceClient> {
  const words = {
    name: new URL(display).host,
    credentials: 'use a URL with a valid signature',
    permissions: 'the URL must be readable by whoever has it; if it was signed, sign it again',
    endpoint: 'the host of the URL',
  };
  return new WebClient(await openWebTransport(environment), new BucketErrors(words, display, 'source'));
}

class WebClient implements SourceClient {
  readonly #transport: WebTransport;
  readonly #errors: BucketErrors;

  constructor(transport: WebTransport, errors: BucketErrors) {
    this.#transport = transport;
    this.#errors = errors;
  }

  async stat(key: string, signal?: AbortSignal): Promise<BucketObject | undefined> {
    let response = await this.#request('HEAD', key, {}, signal);
    // A URL that was signed for GET, or a server that has no HEAD.
    if ([400, 403, 405, 501].includes(response.statusCode)) {
      await response.body.dump();
      response = await this.#request('GET', key, { range: 'bytes=0-0' }, signal);
    }
    const { statusCode, headers } = response;
    await response.body.dump({ limit: 1024 }).catch(() => undefined);
    if (statusCode === 404 || statusCode === 410) return undefined;
    if (statusCode !== 200 && statusCode !== 206) throw this.#refused(statusCode);
    const total =
      statusCode === 206 ? /\/(\d+)$/.exec(one(headers['content-range']) ?? '')?.[1] : one(headers['content-length']);
    if (total === undefined) {
      throw new OctomilError('data_unreadable', `${words(key)}: the server does not say how large the file is`);
    }
    const etag = one(headers['etag']);
    return {
      key,
      sizeBytes: Number(total),
      modifiedAtMs: Date.parse(one(headers['last-modified']) ?? '') || 0,
      // A weak one says "nearly the same", which is not enough for bytes.
      tag: etag?.startsWith('"') === true ? etag : '',
    };
  }

  async *stream(
    key: string,
    { range, tag, signal }: ReadOptions & { readonly range?: { readonly start: number; readonly end: number } } = {},
  ): AsyncGenerator<Uint8Array> {
    const headers = {
      ...(range === undefined ? {} : { range: `bytes=${range.start}-${range.end - 1}` }),
      ...(tag === undefined ? {} : { 'if-match': tag }),
    };
    const { statusCode, headers: answered, body } = await this.#request('GET', key, headers, signal);
    if (statusCode !== (range === undefined ? 200 : 206)) {
      await body.dump({ limit: 1024 }).catch(() => undefined);
      if (range !== undefined && statusCode === 200) {
        throw new OctomilError(
          'data_unreadable',
          `${words(key)}: the server has no ranges; copy the file to the site`,
          {
            details: { problem: 'no_ranges' },
          },
        );
      }
      throw statusCode === 404 && tag !== undefined
        ? this.#errors.make({ problem: 'changed', status: statusCode })
        : this.#refused(statusCode);
    }
    // Some servers ignore If-Match.
    if (tag !== undefined && one(answered['etag']) !== tag) {
      body.destroy();
      throw this.#errors.make({ problem: 'changed' });
    }
    try {
      yield* body as AsyncIterable<Uint8Array>;
    } catch (error) {
      signal?.throwIfAborted();
      throw this.#errors.make({ problem: networkProblem(error) ?? 'unreachable' });
    }
  }

  // biome-ignore lint/correctness/useYield: it has nothing to give
  async *list(): AsyncGenerator<BucketObject> {
    throw new OctomilError('data_unreadable', 'files on the web cannot be listed; name one file');
  }

  async check(): Promise<void> {}

  async close(): Promise<void> {
    await this.#transport.dispatcher.destroy();
  }

  #refused(status: number): OctomilError {
    return this.#errors.make({ problem: problemOfStatus(status) ?? 'refused', status });
  }

  async #request(
    method: 'GET' | 'HEAD',
    key: string,
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
  ): Promise<Dispatcher.ResponseData> {
    const { request, dispatcher } = this.#transport;
    let url = key;
    try {
      for (let hop = 0; ; hop++) {
        const response = await request(url, {
          dispatcher,
          method,
          // As stored, or sizes and ranges would be another file's.
          headers: { 'accept-encoding': 'identity', ...headers },
          ...(signal === undefined ? {} : { signal }),
        });
        const next = one(response.headers['location']);
        if (next === undefined || ![301, 302, 303, 307, 308].includes(response.statusCode)) return response;
        await response.body.dump();
        if (hop >= MAX_REDIRECTS) {
          throw new OctomilError(
            'data_unreadable',
            `${words(key)} redirects more than ${MAX_REDIRECTS} times; use its last URL`,
          );
        }
        const target = new URL(next, url);
        if (target.protocol !== 'https:' && new URL(url).protocol === 'https:') {
          throw new OctomilError(
            'data_unreadable',
            `${words(key)} redirects to ${target.host} in plaintext; use an https URL`,
          );
        }
        url = target.href;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof OctomilError) throw error;
      throw this.#errors.make({ problem: networkProblem(error) ?? 'unreachable' });
    }
  }
}

function one(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}

/** Without the query, which may be a signature. */
function words(key: string): string {
  const { origin, pathname } = new URL(key);
  return `${origin}${pathname}`;
}
