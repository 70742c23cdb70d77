import { OctomilError } from '@octomil/shared/errors';
import type { InferenceEvent } from './inference-event.js';

export interface PostEventsOptions {
  /** Such as `https://coordinator.example/api/v1/inference/events`. */
  readonly url: string;
  readonly headers?: () => Promise<Record<string, string>> | Record<string, string>;
  readonly fetch?: typeof fetch;
}

/**
 * Delivers to a coordinator: one event as itself, several as `{"events": […]}`. For `EventReporter`'s `send`, whose
 * result throws OctomilError: `network_unavailable` where another try makes sense, else `invalid_input`.
 */
export function postEvents({
  url,
  headers,
  fetch: post = fetch,
}: PostEventsOptions): (events: readonly InferenceEvent[], signal: AbortSignal) => Promise<void> {
  return async (events, signal) => {
    const response = await post(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(await headers?.()) },
      body: JSON.stringify(events.length === 1 ? events[0] : { events }),
      signal,
    });
    // Read, so that the connection can serve again.
    await response.arrayBuffer();
    if (response.ok) return;
    const { status } = response;
    const isTemporary = status >= 500 || status === 408 || status === 429;
    throw new OctomilError(isTemporary ? 'network_unavailable' : 'invalid_input', `${url} answered ${status}`);
  };
}
