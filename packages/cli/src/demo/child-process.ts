import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { OctomilError } from '@octomil/shared/errors';
import { entryPoint } from '@octomil/shared/runtime';

const KEPT_LINES = 20;
const GRACE_MS = 5_000;

/**
 * One `octomil …` command as a process of its own.
 *
 * It holds an IPC channel to this process and stops when that closes, so that nothing is left even where this process
 * is killed outright.
 */
export class CommandProcess {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  readonly #exited: Promise<void>;
  readonly #failed: Promise<never>;
  #stopping = false;

  constructor(name: string, args: readonly string[], environment: Readonly<Record<string, string>>) {
    this.name = name;
    const main = entryPoint(import.meta.url, '../main');
    this.#child = spawn(process.execPath, [...main.execArgv, main.path, ...args], {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      cwd: fileURLToPath(new URL('.', import.meta.url)),
      // Ctrl-C reaches the whole terminal group; the children are stopped by this process, in order.
      detached: true,
    });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => this.#keep(text));
    let report: (error: OctomilError) => void;
    this.#failed = new Promise<never>((_resolve, reject) => {
      report = reject;
    });
    // Nobody may be looking when it happens.
    this.#failed.catch(() => undefined);
    this.#exited = new Promise((resolve) => {
      this.#child.on('error', (error) => {
        report(this.#problem(error.message));
        resolve();
      });
      this.#child.on('exit', (code, signal) => {
        if (!this.#stopping) report(this.#problem(signal === null ? `exit code ${code}` : `signal ${signal}`));
        resolve();
      });
    });
  }

  /** The first line that it writes, as JSON. @throws OctomilError `internal` with its last log lines when it dies before */
  firstLine(): Promise<Record<string, unknown>> {
    const line = new Promise<Record<string, unknown>>((resolve) => {
      let text = '';
      const onData = (chunk: string): void => {
        text += chunk;
        const end = text.indexOf('\n');
        if (end < 0) return;
        this.#child.stdout?.off('data', onData).resume();
        resolve(JSON.parse(text.slice(0, end)));
      };
      this.#child.stdout?.setEncoding('utf8').on('data', onData);
    });
    return this.orFailed(line);
  }

  /** Waits for `work`, or fails as soon as the process dies. */
  orFailed<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#failed]);
  }

  /** Asks, waits five seconds, then kills. Safe to repeat. */
  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#child.exitCode !== null || this.#child.signalCode !== null || this.#child.pid === undefined) return;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), GRACE_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  /** What it said last, for a person. */
  get lastLines(): string {
    return this.#lines.map(readable).join('\n');
  }

  #keep(text: string): void {
    this.#lines.push(...text.split('\n').filter((line) => line !== ''));
    this.#lines.splice(0, this.#lines.length - KEPT_LINES);
  }

  #problem(how: string): OctomilError {
    const said = this.#lines.length === 0 ? '' : `; it said last:\n${this.lastLines}`;
    return new OctomilError('internal', `the process of ${this.name} ended with ${how}${said}`);
  }
}

/** The message of a JSON log line with its error; any other line as it is. */
function readable(line: string): string {
  try {
    const { msg, name, error } = JSON.parse(line) as { msg?: string; name?: string; error?: { message?: string } };
    return `  ${name ?? ''}: ${msg ?? line}${error?.message === undefined ? '' : ` (${error.message})`}`;
  } catch {
    return `  ${line}`;
  }
}
