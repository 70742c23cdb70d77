import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore, PresignedRequest } from '@octomil/shared/storage';

export interface DirectAddress extends PresignedRequest {
  readonly expiresAtMs: number;
}

export interface DirectDownloadsOptions {
  readonly objects: ObjectStore;
  readonly clock: Clock;
  readonly logger: Logger;
  /** false: everything goes through the coordinator, for a bucket that others cannot reach. */
  readonly allowed: boolean;
}

/** Nothing ends a signed request before its time, such as a model that is no longer shared: so that time is short. */
export const DIRECT_VALID_MS = 15 * 60_000;
/** A bucket whose requests cannot be signed is not asked again for so long. */
const REST_MS = 10 * 60_000;

/** Requests by which others fetch objects straight from the bucket. */
export class DirectDownloads {
  readonly #options: DirectDownloadsOptions;
  #restsUntilMs = Number.NEGATIVE_INFINITY;

  constructor(options: DirectDownloadsOptions) {
    this.#options = options;
  }

  /** Whether objects lie in a bucket that others may be sent to. */
  get offered(): boolean {
    return this.#options.allowed && this.#options.objects.direct !== undefined;
  }

  /**
   * A request that reads one object, whole or by range, until it expires: at the latest after {@link DIRECT_VALID_MS}.
   * undefined where objects live in a folder or requests cannot be signed: the bytes then come from here. That the object
   * is there and whole is the caller's to see.
   */
  async address(
    objectKey: string,
    validMs: number = DIRECT_VALID_MS,
    disposition?: string,
  ): Promise<DirectAddress | undefined> {
    const { objects, clock, logger } = this.#options;
    const nowMs = clock.now();
    if (!this.offered || objects.direct === undefined || nowMs < this.#restsUntilMs) return undefined;
    const lifetimeMs = Math.min(validMs, DIRECT_VALID_MS);
    try {
      return {
        ...(await objects.direct.presignGet(objectKey, lifetimeMs, disposition)),
        expiresAtMs: nowMs + lifetimeMs,
      };
    } catch (thrown) {
      const error = toOctomilError(thrown);
      this.#restsUntilMs = nowMs + REST_MS;
      logger.warn(
        { error: new OctomilError(error.code, error.reason) },
        'downloads cannot be signed; bytes go through the coordinator',
      );
      return undefined;
    }
  }
}
