import type { HttpClient } from '../http-client.js';

/** How long a bucket that cannot be used from here is left alone. */
const REST_MS = 10 * 60_000;
const restsUntilMs = new WeakMap<HttpClient, number>();

/** Whether no bucket has failed lately. */
export function mayGoDirect(http: HttpClient): boolean {
  return (restsUntilMs.get(http) ?? 0) <= Date.now();
}

/** It cannot be used from here: until {@link mayGoDirect} says so again, bytes go through the coordinator. */
export function leaveBucketAlone(http: HttpClient): void {
  restsUntilMs.set(http, Date.now() + REST_MS);
}
