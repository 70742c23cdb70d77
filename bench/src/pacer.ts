// A thread that says when each of many moments has come, to a tenth of a millisecond: timers of the event loop are ten
// times coarser, and what they add would be counted as the coordinator's.
import { parentPort, workerData } from 'node:worker_threads';

export interface PacerTask {
  /** Milliseconds of `monotonicMs`, in order. */
  readonly momentsMs: Float64Array;
}

/** One clock for all threads of a process. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

if (parentPort !== null) {
  const { momentsMs } = workerData as PacerTask;
  const never = new Int32Array(new SharedArrayBuffer(4));
  for (let index = 0; index < momentsMs.length; index++) {
    const leftMs = (momentsMs[index] ?? 0) - monotonicMs();
    if (leftMs > 0) Atomics.wait(never, 0, 0, leftMs);
    parentPort.postMessage(index);
  }
}
