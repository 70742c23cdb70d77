import { readFileSync, writeFileSync } from 'node:fs';

/** `VmRSS` (now) or `VmHWM` (peak) of a process in MiB, from Linux's /proc; NaN elsewhere. */
export function processMemoryMiB(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  try {
    const line = readFileSync(`/proc/${pid}/status`, 'utf8').match(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm'));
    return line === null ? Number.NaN : Number(line[1]) / 1024;
  } catch {
    return Number.NaN;
  }
}

/** Sets the peak of a process back to what it holds now (proc(5), clear_refs value 5). */
export function resetPeakMemory(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5');
  } catch {
    // Not Linux, or not ours: the peak is then of the whole run.
  }
}
