import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Sooner costs collections for nothing; later, the buffers leave the processor's caches before they are used again. */
const COLLECT_EVERY_BYTES = 4 * 1024 * 1024;
/** What a socket sets aside for every read, however little then comes: slow readers get small chunks. */
const READ_BUFFER_BYTES = 64 * 1024;

type Collect = (options: { type: 'minor' }) => void;

let collect: Collect | undefined;
let uncollectedBytes = 0;

/**
 * Tells of a chunk that a socket or a body handed over, which is garbage soon after. Every 4 MiB, V8 collects
 * its young generation: about a millisecond.
 *
 * Left alone, V8 sees 64 MiB outside its heap for a few small objects inside, and marks the whole heap to get rid of
 * them: in a bulk transfer that takes more time than the transfer, and most of the process's memory.
 */
export function noteNetworkGarbage(chunkBytes: number): void {
  uncollectedBytes += Math.max(chunkBytes, READ_BUFFER_BYTES);
  if (uncollectedBytes < COLLECT_EVERY_BYTES) return;
  uncollectedBytes = 0;
  collect ??= exposeCollector();
  collect({ type: 'minor' });
}

/** `gc` exists only in contexts that are made while the flag is set. */
function exposeCollector(): Collect {
  setFlagsFromString('--expose-gc');
  try {
    const exposed: unknown = runInNewContext('globalThis.gc');
    return typeof exposed === 'function' ? (exposed as Collect) : () => undefined;
  } finally {
    setFlagsFromString('--no-expose-gc');
  }
}
