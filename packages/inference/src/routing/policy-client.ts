import type { Clock } from '@octomil/shared/runtime';
import { DEFAULT_POLICY, parseRoutingPolicy, type RoutingPolicy } from './policy.js';

export interface RoutingPolicyClientOptions {
  /** Such as `https://coordinator.example/api/v1/route/policy`. */
  readonly url: string;
  readonly headers?: () => Promise<Record<string, string>> | Record<string, string>;
  readonly fetch?: typeof fetch;
  readonly clock?: Pick<Clock, 'now'>;
  /** Default 5,000: routing does not wait long for advice. */
  readonly timeoutMs?: number;
}

/** The coordinator's routing policy, kept until it expires and asked for with its ETag. Never a reason to fail. */
export class RoutingPolicyClient {
  readonly #options: RoutingPolicyClientOptions;
  #held: RoutingPolicy | undefined;
  #etag: string | undefined;
  #freshUntilMs = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined;
  #problem: unknown;

  constructor(options: RoutingPolicyClientOptions) {
    this.#options = options;
  }

  /** What went wrong the last time; undefined when nothing did. */
  get problem(): unknown {
    return this.#problem;
  }

  /** The policy in force: fresh, else the last one known, else the default. */
  async current(): Promise<RoutingPolicy> {
    if (this.#nowMs() >= this.#freshUntilMs) {
      this.#asking ??= this.#ask().finally(() => {
        this.#asking = undefined;
      });
      await this.#asking;
    }
    return this.#held ?? DEFAULT_POLICY;
  }

  async #ask(): Promise<void> {
    const { url, headers, timeoutMs = 5_000 } = this.#options;
    try {
      const response = await (this.#options.fetch ?? fetch)(url, {
        headers: { ...(await headers?.()), ...(this.#etag === undefined ? {} : { 'if-none-match': this.#etag }) },
        signal: AbortSignal.timeout(timeoutMs),
      });
      if (response.status !== 304) {
        if (!response.ok) throw new TypeError(`${url} answered ${response.status}`);
        this.#held = parseRoutingPolicy(await response.json());
        this.#etag = response.headers.get('etag') ?? undefined;
      }
      this.#problem = undefined;
      const maxAge = /max-age=(\d+)/.exec(response.headers.get('cache-control') ?? '')?.[1];
      this.#keepFor(maxAge === undefined ? (this.#held ?? DEFAULT_POLICY).ttlSeconds : Number(maxAge));
    } catch (error) {
      this.#problem = error;
      // Not asked again at once: a coordinator that is down must not slow every query.
      this.#keepFor(30);
    }
  }

  #keepFor(seconds: number): void {
    this.#freshUntilMs = this.#nowMs() + seconds * 1000;
  }

  #nowMs(): number {
    return (this.#options.clock ?? Date).now();
  }
}
