import type { HttpClient } from '../http-client.js';
import { plainDigest } from '../training-run.js';
import { wirePath } from '../wire-path.js';
import { leaveBucketAlone, mayGoDirect } from './bucket-rest.js';
import type { FileFacts, PullOptions } from './file-facts.js';

const CONNECT_MS = 20_000;
/**
 * Less than `bodyChunks` reads ahead, so that reading never rests: object stores close connections, and the fetch of Node
 * ends the process for it while reading rests.
 */
const PIECE_BYTES = 8 * 1024 * 1024;

/** @returns an address of this very file in the bucket; a secret until it expires */
async function addressOf(http: HttpClient, options: PullOptions, { digest }: FileFacts): Promise<string | undefined> {
  const { model, version = 'latest', format = 'original', signal } = options;
  const path = `${wirePath('models', model, 'versions', version)}/download-url`;
  const { url, direct, checksum } = await http.json<Record<string, unknown>>('GET', path, {
    query: { format },
    signal,
  });
  return direct === true && typeof url === 'string' && plainDigest(String(checksum)) === digest ? url : undefined;
}

/** One file from the bucket: its address is asked for anew when the bucket takes it no longer. */
export class DirectDownload {
  readonly #http: HttpClient;
  readonly #options: PullOptions;
  readonly #facts: FileFacts;
  /** For the piece after the last one. */
  #next: { readonly url: string; readonly from: number } | undefined;

  constructor(http: HttpClient, options: PullOptions, facts: FileFacts) {
    this.#http = http;
    this.#options = options;
    this.#facts = facts;
  }

  /** The next bytes from `from` on, not all; undefined where the bucket cannot be used from here: it is then left alone for a while. */
  async ask(from: number): Promise<Response | undefined> {
    if (!mayGoDirect(this.#http)) return undefined;
    let kept = this.#next?.from === from ? this.#next.url : undefined;
    for (let attempt = 0; attempt < 2; attempt++) {
      const url = kept ?? (await addressOf(this.#http, this.#options, this.#facts));
      kept = undefined;
      if (url === undefined) break;
      const range = rangeFrom(from, this.#facts.sizeBytes);
      const response = await this.#fetch(url, range);
      if (response?.status === (range === undefined ? 200 : 206)) {
        this.#next = { url, from: from + PIECE_BYTES };
        return response;
      }
      await response?.body?.cancel();
      if (response === undefined) break;
    }
    leaveBucketAlone(this.#http);
    return undefined;
  }

  async #fetch(url: string, range: string | undefined): Promise<Response | undefined> {
    const { signal } = this.#options;
    const patience = new AbortController();
    const timer = setTimeout(() => patience.abort(), CONNECT_MS);
    try {
      // Without our key: the address is all that the bucket wants.
      return await fetch(url, {
        headers: { 'accept-encoding': 'identity', ...(range === undefined ? {} : { range }) },
        redirect: 'error',
        signal: signal === undefined ? patience.signal : AbortSignal.any([signal, patience.signal]),
      });
    } catch (error) {
      if (signal?.aborted === true) throw error;
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** undefined: the whole file */
function rangeFrom(from: number, sizeBytes: number): string | undefined {
  if (sizeBytes - from > PIECE_BYTES) return `bytes=${from}-${from + PIECE_BYTES - 1}`;
  return from === 0 ? undefined : `bytes=${from}-`;
}
