import { accessSync, constants, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { delimiter, isAbsolute, join } from 'node:path';
import type { OwnCodeLimits } from './own-code.js';

/** A program's path, as `execvp` would find it; undefined where there is none. */
export function findProgram(name: string, searchPath = process.env['PATH'] ?? ''): string | undefined {
  const candidates = isAbsolute(name) ? [name] : searchPath.split(delimiter).map((folder) => join(folder, name));
  return candidates.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/**
 * What goes before a command on Linux so that the kernel holds it to its limits, with the programs that this machine has:
 * memory that it may write to, the size of one file, no core dump (it would hold rows), its end with its parent's, and its
 * share of the processors. Elsewhere nothing: there the watch alone limits it.
 */
export function limitingPrefix(limits: OwnCodeLimits): string[] {
  if (process.platform !== 'linux') return [];
  const prefix: string[] = [];
  const { memoryMb, maxOutputMb, cpuPercent } = limits;
  const prlimit = findProgram('prlimit');
  if (prlimit !== undefined) {
    // A MiB more than is allowed, so that the watch sees that it was too much and can say so.
    const fileBytes = (maxOutputMb + 1) * 1_048_576;
    prefix.push(prlimit, `--data=${memoryMb * 1_048_576}`, `--fsize=${fileBytes}`, '--core=0', '--');
  }
  const setpriv = findProgram('setpriv');
  if (setpriv !== undefined) prefix.push(setpriv, '--pdeathsig', 'KILL', '--');
  const taskset = cpuPercent === undefined ? undefined : findProgram('taskset');
  if (taskset !== undefined && cpuPercent !== undefined) {
    const list = allowedProcessors().slice(0, processorsOf(cpuPercent)).join();
    if (list !== '') prefix.push(taskset, '--cpu-list', list);
  }
  return prefix;
}

/** By number: a container, or whoever started this process, may have taken any of the machine's away. */
function allowedProcessors(): number[] {
  const status = readFileSync('/proc/self/status', 'latin1');
  const ranges = /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1]?.split(',') ?? [];
  return ranges.flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
}

/** At least one. */
export function processorsOf(cpuPercent: number): number {
  return Math.max(1, Math.ceil((availableParallelism() * cpuPercent) / 100));
}
