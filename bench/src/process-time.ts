import { readFileSync } from 'node:fs';

/** Linux counts processor time in these (`getconf CLK_TCK`). */
const TICKS_PER_SECOND = 100;

/**
 * Processor time that a process and its threads have had, in milliseconds, from Linux's /proc; NaN elsewhere. Unlike the
 * wall clock it hardly depends on what else the machine does.
 */
export function processTimeMs(pid: number): number {
  try {
    // The name, which may hold anything, is in parentheses; then state and ten more before `utime` and `stime`.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
    return ((Number(fields[11]) + Number(fields[12])) * 1_000) / TICKS_PER_SECOND;
  } catch {
    return Number.NaN;
  }
}
