import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';

/** Of a process, what is watched. */
export interface Watched {
  /** When it last said anything, by the clock. */
  readonly heardAtMs: number;
  readonly rssBytes: number | undefined;
}

export interface WatchOptions {
  readonly clock: Clock;
  /** A process that says nothing for longer hangs. */
  readonly silenceLimitMs: number;
  /** Resident memory that it may have, with the pages of its file; undefined: no limit. */
  readonly maxMemoryBytes: number | undefined;
  /** Told once, with why the process has to be ended. */
  readonly onFault: (fault: OctomilError) => void;
}

/** How often a process says that it is there, for each time that it may be silent. */
const BEATS = 6;

export function beatMs(silenceLimitMs: number): number {
  return Math.max(10, Math.round(silenceLimitMs / BEATS));
}

/**
 * Watches a process that is alive: one that hangs answers nobody and never ends by itself. Returns what ends the watch.
 * Whether it hangs is only judged once it `isLoaded`: until then the time limit of loading holds.
 */
export function watchEngine(watched: Watched, isLoaded: () => boolean, options: WatchOptions): () => void {
  const { clock, silenceLimitMs, maxMemoryBytes, onFault } = options;
  const everyMs = beatMs(silenceLimitMs);
  let dueAtMs = clock.now() + everyMs;
  let callOff: () => void = () => undefined;
  const look = (): void => {
    const nowMs = clock.now();
    // After a sleep of the machine, or of this process, what was said meanwhile is still to be read.
    const isLate = nowMs - dueAtMs > everyMs;
    const fault = memoryFault(watched, maxMemoryBytes) ?? (isLoaded() && !isLate ? silence(nowMs) : undefined);
    if (fault !== undefined) {
      onFault(fault);
      return;
    }
    dueAtMs = nowMs + everyMs;
    callOff = clock.after(everyMs, look);
  };
  const silence = (nowMs: number): OctomilError | undefined => {
    const silentMs = nowMs - watched.heardAtMs;
    if (silentMs <= silenceLimitMs) return undefined;
    return new OctomilError(
      'model_load_failed',
      `the engine process hung, and is being started anew: it said nothing for ${silentMs} ms; the limit is ${silenceLimitMs}`,
    );
  };
  callOff = clock.after(everyMs, look);
  return () => callOff();
}

/** The failure of a process that has taken more memory than it may; undefined while it has not. */
export function memoryFault(
  { rssBytes = 0 }: Pick<Watched, 'rssBytes'>,
  limit: number | undefined,
): OctomilError | undefined {
  if (limit === undefined || rssBytes <= limit) return undefined;
  const mib = (bytes: number): number => Math.ceil(bytes / 1_048_576);
  return new OctomilError(
    'insufficient_memory',
    `the engine process took ${mib(rssBytes)} MiB of memory; its limit is ${mib(limit)} MiB, with the pages of the model file: raise it, or lower context_tokens or parallel`,
    { details: { rss_bytes: rssBytes, max_memory_bytes: limit } },
  );
}
