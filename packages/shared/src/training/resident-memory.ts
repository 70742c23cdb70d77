import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import type { Clock } from '@octomil/shared/runtime';

/**
 * Resident bytes of a process.
 *
 * @returns undefined where the system does not tell, or the process is gone
 */
export async function residentBytesOf(pid: number): Promise<number | undefined> {
  if (process.platform === 'win32') return undefined;
  if (process.platform !== 'linux') return residentFromPs(pid);
  const status = await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '');
  return kibibytes(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
}

function residentFromPs(pid: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    execFile('ps', ['-o', 'rss=', '-p', String(pid)], { timeout: 2_000 }, (error, output) => {
      resolve(error === null ? kibibytes(output.trim()) : undefined);
    });
  });
}

function kibibytes(text: string | undefined): number | undefined {
  return text === undefined || text === '' ? undefined : Number(text) * 1_024;
}

const WATCH_MS = 100;

/**
 * Looks at a process's resident memory ten times a second and calls back, once, when it is beyond the limit. Nothing
 * happens where the system does not tell (Windows).
 *
 * @returns ends the watch
 */
export function watchMemory(
  pid: number,
  limitBytes: number,
  clock: Clock,
  onExcess: (usedBytes: number) => void,
): () => void {
  let stopped = false;
  let callOff = (): void => undefined;
  const look = async (): Promise<void> => {
    const usedBytes = await residentBytesOf(pid);
    if (stopped) return;
    if (usedBytes !== undefined && usedBytes > limitBytes) onExcess(usedBytes);
    else callOff = clock.after(WATCH_MS, () => void look());
  };
  void look();
  return () => {
    stopped = true;
    callOff();
  };
}
