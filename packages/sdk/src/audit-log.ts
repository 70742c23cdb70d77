import type { ClientOptions } from './client-options.js';
import { HttpClient } from './http-client.js';
import { listOf } from './training-session.js';
import { camelNames } from './wire-names.js';

/** A change that somebody made. */
export interface AuditEntry {
  readonly id: string;
  readonly createdAt: string;
  /** An API key, a device, or `coordinator` for what it does by itself. */
  readonly actor: string;
  /** Such as `rollout.advance`. */
  readonly action: string;
  /** Such as `rollouts/7`. */
  readonly resource: string;
  readonly details: Readonly<Record<string, unknown>>;
  readonly remoteAddress: string | null;
  readonly requestId: string | null;
}

export interface AuditFilter {
  readonly actor?: string;
  readonly action?: string;
  readonly resource?: string;
  /** Times such as `2026-01-31T12:00:00Z`. */
  readonly since?: string | Date;
  readonly until?: string | Date;
  readonly signal?: AbortSignal | undefined;
}

export interface AuditPage {
  readonly entries: readonly AuditEntry[];
  /** Gives the next page; null on the last one. */
  readonly nextCursor: string | null;
}

/** Who changed what, from where: for keys with the scope `admin`. */
export class AuditLog {
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions | HttpClient = {}) {
    this.#http = HttpClient.of(options);
  }

  /**
   * One page, newest first.
   *
   * @param filter `limit`: default 100, at most 1,000; `cursor`: `nextCursor` of the page before
   * @throws OctomilClientError `forbidden` without the scope
   */
  async list(filter: AuditFilter & { readonly limit?: number; readonly cursor?: string } = {}): Promise<AuditPage> {
    const { signal, since, until, ...rest } = filter;
    const query = { ...rest, since: timeText(since), until: timeText(until) };
    const answer = await this.#http.json<Record<string, unknown>>('GET', '/audit', { query, signal });
    const entries = listOf(answer, 'entries').map((row) => camelNames(row as Record<string, unknown>));
    const cursor = answer['next_cursor'];
    return { entries: entries as unknown as AuditEntry[], nextCursor: typeof cursor === 'string' ? cursor : null };
  }

  /** All entries, newest first, a page at a time. @throws OctomilClientError as `list` */
  async *entries(filter: AuditFilter = {}): AsyncGenerator<AuditEntry, void, undefined> {
    let cursor: string | null = null;
    do {
      const page: AuditPage = await this.list({ ...filter, ...(cursor === null ? {} : { cursor }) });
      yield* page.entries;
      cursor = page.nextCursor;
    } while (cursor !== null);
  }
}

function timeText(time: string | Date | undefined): string | undefined {
  return typeof time === 'string' || time === undefined ? time : time.toISOString();
}
