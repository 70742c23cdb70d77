import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { copyFile, lstat, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { Converter } from './converters.js';

export interface CommandRun {
  readonly converter: Converter;
  /** Left alone: the command is given a copy. */
  readonly inputPath: string;
  readonly inputName: string;
  readonly outputName: string;
  /** Gets a folder of its own, which is the command's working directory. */
  readonly folder: string;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

const LOOK_EVERY_MS = 500;
const KEPT_STDERR = 2_000;

/**
 * Runs an operator's converter: no shell, an empty folder, an environment of four variables, a process group that is
 * killed as a whole when it is late, writes too much or is aborted.
 *
 * @returns the output's path, in a folder inside `folder`
 * @throws OctomilError `conversion_failed` with the end of what it wrote to stderr, `cancelled`
 */
export async function runCommand(run: CommandRun): Promise<string> {
  const { converter, clock, signal } = run;
  const folder = await mkdtemp(join(run.folder, 'command-'));
  const input = join(folder, run.inputName);
  const output = join(folder, run.outputName);
  await copyFile(run.inputPath, input, constants.COPYFILE_FICLONE);
  signal.throwIfAborted();
  const [program = '', ...args] = converter.command.map((word) =>
    word.replaceAll('{input}', input).replaceAll('{output}', output),
  );
  const what = `the converter ${converter.from} → ${converter.to} (${converter.command[0]})`;
  const child = spawn(program, args, {
    cwd: folder,
    env: { PATH: process.env['PATH'] ?? '', HOME: folder, TMPDIR: folder, LANG: 'C.UTF-8' },
    stdio: ['ignore', 'ignore', 'pipe'],
    // A group of its own, so that what it starts ends with it.
    detached: true,
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-KEPT_STDERR);
  });
  let stopped: OctomilError | undefined;
  const stop = (error: OctomilError): void => {
    stopped ??= error;
    killGroup(child.pid);
  };
  const failed = (reason: string): OctomilError => new OctomilError('conversion_failed', `${what} ${reason}`);
  const cancelTimeout = clock.after(converter.timeoutMs, () =>
    stop(failed(`did not end within ${converter.timeoutMs / 1000} seconds and was killed`)),
  );
  const onAbort = (): void => stop(new OctomilError('cancelled', 'the conversion was cancelled'));
  signal.addEventListener('abort', onAbort, { once: true });
  const looking = setInterval(() => {
    lstat(output).then(
      ({ size }) => {
        if (size > converter.maxOutputBytes) stop(failed(`wrote more than ${converter.maxOutputBytes} bytes`));
      },
      () => undefined,
    );
  }, LOOK_EVERY_MS);
  try {
    const end = await new Promise<{ code: number | null; killedBy: NodeJS.Signals | null }>((resolve, reject) => {
      child.once('error', (error) => reject(failed(`could not be started: ${error.message}`)));
      // Not `close`: a child that it left behind may hold stderr open.
      child.once('exit', (code, killedBy) => resolve({ code, killedBy }));
    });
    if (stopped !== undefined) throw stopped;
    if (end.code !== 0) {
      const how = end.killedBy === null ? `ended with code ${end.code}` : `was ended by ${end.killedBy}`;
      throw failed(`${how}: ${stderr.trim() || 'it said nothing'}`);
    }
  } finally {
    cancelTimeout();
    clearInterval(looking);
    signal.removeEventListener('abort', onAbort);
    killGroup(child.pid);
    child.stderr.destroy();
    await rm(input, { force: true });
  }
  const made = await lstat(output).catch(() => undefined);
  if (made?.isFile() !== true || made.size === 0)
    throw failed('wrote no file; its output must be one file that is not empty');
  if (made.size > converter.maxOutputBytes) throw failed(`wrote more than ${converter.maxOutputBytes} bytes`);
  return output;
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It is gone.
  }
}
