import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { residentBytesOf } from '../resident-memory.js';

/** Set in the environment of everything that a run starts, so that what left its process group is found again. */
export const RUN_MARKER = 'OCTOMIL_RUN';

const LINUX = process.platform === 'linux';

/**
 * Resident bytes of a process group. Pages that processes share are counted for each.
 *
 * @returns undefined where the system does not tell
 */
export async function residentBytes(groupId: number): Promise<number | undefined> {
  return LINUX ? residentFromProc(groupId) : residentFromPs(groupId);
}

async function residentFromProc(groupId: number): Promise<number | undefined> {
  const counts = await Promise.all(
    (await processIds()).map(async (id) => {
      const text = await readFile(`/proc/${id}/stat`, 'latin1').catch(() => '');
      // The program's name, in parentheses, may hold anything; the fields after it are numbers.
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
      return Number(fields[2]) === groupId ? ((await residentBytesOf(id)) ?? 0) : 0;
    }),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}

function residentFromPs(groupId: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    execFile('ps', ['-axo', 'pgid=,rss='], { timeout: 2_000 }, (error, output) => {
      if (error !== null) return resolve(undefined);
      const rows = output
        .trim()
        .split('\n')
        .map((line) => line.trim().split(/\s+/).map(Number));
      resolve(rows.reduce((sum, [group, kib]) => sum + (group === groupId ? (kib ?? 0) * 1_024 : 0), 0));
    });
  });
}

/** Ends a process group. One that is gone already is no error. */
export function signalGroup(groupId: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-groupId, signal);
  } catch {
    // ESRCH: nothing is left of it.
  }
}

/** Kills what was started with this variable of the environment, in whatever process group. Linux only: elsewhere nothing tells. */
export async function killCarrying(variable: string, value: string): Promise<void> {
  if (!LINUX) return;
  const mark = Buffer.from(`${variable}=${value}`).toString('latin1');
  await Promise.all(
    (await processIds()).map(async (id) => {
      const environment = await readFile(`/proc/${id}/environ`, 'latin1').catch(() => '');
      if (!environment.split('\0').includes(mark)) return;
      try {
        process.kill(id, 'SIGKILL');
      } catch {
        // It ended meanwhile.
      }
    }),
  );
}

async function processIds(): Promise<number[]> {
  const names = await readdir('/proc').catch(() => []);
  return names.map(Number).filter((id) => Number.isInteger(id) && id > 1);
}
