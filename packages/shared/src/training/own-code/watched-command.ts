import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { cancelledBy } from '../cancellation.js';
import { limitingPrefix } from './limiting-prefix.js';
import type { OwnCodeLimits } from './own-code.js';
import { killCarrying, RUN_MARKER, residentBytes, signalGroup } from './process-tree.js';

const MIB = 1_048_576;
const WATCH_MS = 250;
/** From being asked to end until being killed. */
const GRACE_MS = 2_000;
/** Standard output and error together; whoever writes more writes rows or runs wild. */
const MAX_TALK_BYTES = 32 * MIB;
const MAX_LINE_CHARACTERS = 65_536;
const TAIL_CHARACTERS = 2_000;
const MAX_FILES = 20_000;

export interface WatchedCommand {
  /** For messages: the trainer's name. */
  readonly name: string;
  /** Absolute. */
  readonly program: string;
  readonly arguments: readonly string[];
  /** Where it runs and may write. */
  readonly folder: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly limits: OwnCodeLimits;
  readonly signal: AbortSignal | undefined;
  /** Each whole line of its standard output. */
  readonly onLine: (line: string) => void;
}

/**
 * Runs a command to its end in a process group of its own: no shell, no input, no environment but the one given. At any
 * limit, and on cancel, the group is ended, and so is what tried to leave it.
 *
 * @throws OctomilError `training_failed`, whose first line may leave the site and whose other lines, the command's last
 * words, may not; `cancelled`
 */
export async function runWatched(command: WatchedCommand): Promise<void> {
  const { name, folder, limits, signal } = command;
  if (signal?.aborted) throw cancelledBy(signal);
  const before = await folderUse(folder);
  const run = randomUUID();
  const [program = '', ...args] = [...limitingPrefix(limits), command.program, ...command.arguments];
  const child = spawn(program, args, {
    cwd: folder,
    detached: true,
    env: { ...command.environment, [RUN_MARKER]: run },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = endOf(child);
  const groupId = child.pid;
  if (groupId === undefined) throw failed(name, `could not be started (${(await ended).code})`, '');
  const talk = new Talk(child, command.onLine);
  let reason: OctomilError | undefined;
  let callOffKill: NodeJS.Timeout | undefined;
  /** The first reason counts. */
  const end = (why: OctomilError, at: 'once' | 'after grace'): void => {
    reason ??= why;
    if (at === 'once') signalGroup(groupId, 'SIGKILL');
    else {
      signalGroup(groupId, 'SIGTERM');
      callOffKill ??= setTimeout(() => signalGroup(groupId, 'SIGKILL'), GRACE_MS);
    }
  };
  const stop = (what: string): void => end(failed(name, what, talk.tail), 'once');
  talk.onFlood = () => stop(`wrote more than ${MAX_TALK_BYTES / MIB} MiB to its output and was ended`);
  const onAbort = (): void => {
    if (signal !== undefined) end(cancelledBy(signal), 'after grace');
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  if (signal?.aborted) onAbort();
  // Where this process ends first, the command does not outlive it.
  const onExit = (): void => signalGroup(groupId, 'SIGKILL');
  process.once('exit', onExit);
  const timeout = setTimeout(
    () => stop(`did not end within ${limits.timeoutMs / 1_000} s and was ended (timeout_seconds)`),
    limits.timeoutMs,
  );
  const watch = new Watch(groupId, folder, limits, before, stop);
  const { code, signalName } = await ended;
  await watch.stop();
  clearTimeout(timeout);
  clearTimeout(callOffKill);
  process.off('exit', onExit);
  signal?.removeEventListener('abort', onAbort);
  signalGroup(groupId, 'SIGKILL');
  await killCarrying(RUN_MARKER, run);
  talk.end();
  if (reason !== undefined) throw reason;
  const tooMuch = excess(limits, before, await folderUse(folder));
  if (tooMuch !== undefined) throw failed(name, tooMuch, talk.tail);
  if (code !== 0) {
    const how = signalName === null ? `ended with exit status ${code}` : `was ended by ${signalName}`;
    throw failed(name, how, talk.tail);
  }
}

/** @param tail stays at the site: everything after the first line does */
function failed(name: string, what: string, tail: string): OctomilError {
  const words = tail.trim();
  const local = words === '' ? '' : `\nits last words:\n${words}`;
  return new OctomilError('training_failed', `the site's own code for trainer "${name}" ${what}${local}`);
}

interface End {
  readonly code: number | string | null;
  readonly signalName: NodeJS.Signals | null;
}

/** Not `close`: that waits for whoever else holds the output open. */
function endOf(child: ChildProcess): Promise<End> {
  return new Promise((resolve) => {
    child.once('exit', (code, signalName) => setImmediate(() => resolve({ code, signalName })));
    child.once('error', (error: NodeJS.ErrnoException) => {
      if (child.pid === undefined) resolve({ code: error.code ?? 'error', signalName: null });
    });
  });
}

/** What a command says: lines of its output to the listener, the end of its errors to a failure. */
class Talk {
  onFlood: () => void = () => undefined;
  tail = '';
  readonly #child: ChildProcess;
  #line = '';
  #bytes = 0;

  constructor(child: ChildProcess, onLine: (line: string) => void) {
    this.#child = child;
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      if (!this.#counted(text)) return;
      const lines = (this.#line + text).split('\n');
      this.#line = (lines.pop() ?? '').slice(0, MAX_LINE_CHARACTERS);
      for (const line of lines) onLine(line);
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (this.#counted(text)) this.tail = (this.tail + text).slice(-TAIL_CHARACTERS);
    });
  }

  end(): void {
    this.#child.stdout?.destroy();
    this.#child.stderr?.destroy();
  }

  #counted(text: string): boolean {
    this.#bytes += text.length;
    if (this.#bytes <= MAX_TALK_BYTES) return true;
    this.onFlood();
    return false;
  }
}

/** Looks at memory and disk four times a second. */
class Watch {
  #stopped = false;
  #wake: () => void = () => undefined;
  readonly #running: Promise<void>;

  constructor(groupId: number, folder: string, limits: OwnCodeLimits, before: FolderUse, stop: (what: string) => void) {
    this.#running = this.#run(async () => {
      const resident = (await residentBytes(groupId)) ?? 0;
      if (resident > limits.memoryMb * MIB) {
        return stop(`used more than ${limits.memoryMb} MiB of memory and was ended (memory_limit_mb)`);
      }
      const tooMuch = excess(limits, before, await folderUse(folder));
      if (tooMuch !== undefined) stop(`${tooMuch} and was ended`);
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#wake();
    await this.#running;
  }

  async #run(look: () => Promise<void>): Promise<void> {
    while (!this.#stopped) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, WATCH_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      if (!this.#stopped) await look().catch(() => undefined);
    }
  }
}

interface FolderUse {
  readonly bytes: number;
  readonly files: number;
}

function excess({ maxOutputMb }: OwnCodeLimits, before: FolderUse, now: FolderUse): string | undefined {
  if (now.bytes - before.bytes > maxOutputMb * MIB) return `wrote more than ${maxOutputMb} MiB to disk (max_output_mb)`;
  return now.files - before.files > MAX_FILES ? `made more than ${MAX_FILES} files` : undefined;
}

async function folderUse(folder: string): Promise<FolderUse> {
  let bytes = 0;
  let files = 0;
  const waiting = [folder];
  for (let at = waiting.pop(); at !== undefined && files < 4 * MAX_FILES; at = waiting.pop()) {
    // A folder that was removed meanwhile holds nothing.
    for (const entry of await readdir(at, { withFileTypes: true }).catch(() => [])) {
      files += 1;
      const path = join(at, entry.name);
      if (entry.isDirectory()) waiting.push(path);
      else bytes += (await lstat(path).catch(() => undefined))?.size ?? 0;
    }
  }
  return { bytes, files };
}
