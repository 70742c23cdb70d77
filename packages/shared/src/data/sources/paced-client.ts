import type { SourceClient } from '@octomil/shared/storage';

/** Called with what has come; whoever fetches waits for it before more is taken. */
export type Pace = (bytes: number, signal?: AbortSignal) => Promise<void>;

/** A client whose bytes come no faster than `pace` lets them. */
export function pacedClient(client: SourceClient, pace: Pace | undefined): SourceClient {
  if (pace === undefined) return client;
  return {
    stat: (key, signal) => client.stat(key, signal),
    list: (prefix, signal) => client.list(prefix, signal),
    check: (signal) => client.check(signal),
    close: () => client.close(),
    async *stream(key, options) {
      for await (const chunk of client.stream(key, options)) {
        await pace(chunk.length, options?.signal);
        yield chunk;
      }
    },
  };
}
