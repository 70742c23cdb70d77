import { OctomilError } from '@octomil/shared/errors';

/** As many requests wait as may. Code `rate_limited`, HTTP 429. */
export class QueueFullError extends OctomilError {
  constructor(maxDepth: number, retryAfterSeconds: number) {
    super('rate_limited', `${maxDepth} requests are waiting already, which is all that may; try again later`, {
      details: { maxDepth },
      retryAfterSeconds,
    });
  }
}

/** A request waited too long for its turn; what it asked for was never begun. Code `request_timeout`, HTTP 504. */
export class QueueTimeoutError extends OctomilError {
  constructor(timeoutMs: number) {
    super('request_timeout', `the request waited ${timeoutMs} ms for its turn, which is the longest it may`, {
      details: { timeoutMs },
    });
  }
}
