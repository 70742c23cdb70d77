import type { Clock } from '@octomil/shared/runtime';

/** A stat of one file; a person who pauses and then asks for a dry run takes longer. */
const PAUSE_CHECK_MS = 1_000;

/**
 * Tells whenever the site was paused or goes on: `octomil agent pause` is another process, which only leaves a marker.
 *
 * @returns stops the watch
 */
export function watchPause(clock: Clock, isPaused: () => boolean, tell: () => Promise<void>): () => void {
  let told = isPaused();
  let callOff = (): void => undefined;
  const again = (): void => {
    callOff = clock.after(PAUSE_CHECK_MS, () => {
      const paused = isPaused();
      if (paused !== told) {
        told = paused;
        // A summary that cannot be sent now is part of the next hello.
        void tell().catch(() => undefined);
      }
      again();
    });
  };
  again();
  return () => callOff();
}
