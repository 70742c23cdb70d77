import { type ChildProcess, spawn } from 'node:child_process';
import { entryPoint } from '@octomil/shared/runtime';

export interface CommandResult {
  readonly exitCode: number | null;
  readonly out: string;
  /** What a person reads in the terminal when it fails, or the log of a daemon. */
  readonly err: string;
}

/** An `octomil` command as its own process. */
export interface RunningCommand {
  readonly child: ChildProcess;
  readonly finished: Promise<CommandResult>;
  /** Resolves when it has written this to either stream; rejects when it ends before. */
  until(text: RegExp): Promise<string>;
  /** SIGTERM, and what it said until its end. */
  stop(): Promise<CommandResult>;
}

export interface CommandOptions {
  readonly environment?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** A POSIX shell's words before the command, such as a limit that holds for it alone. */
  readonly shellPrefix?: string;
}

export function startOctomil(args: readonly string[], options: CommandOptions = {}): RunningCommand {
  const main = entryPoint(import.meta.url, '../main');
  const command = [process.execPath, ...main.execArgv, main.path, ...args];
  const [program = '', ...rest] =
    options.shellPrefix === undefined
      ? command
      : ['/bin/sh', '-c', `${options.shellPrefix}; exec "$@"`, 'sh', ...command];
  const child = spawn(program, rest, {
    env: { ...process.env, NODE_OPTIONS: '', ...options.environment },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  let out = '';
  let err = '';
  const looking = new Set<() => void>();
  const heard = (): void => {
    for (const look of looking) look();
  };
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    out += text;
    heard();
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    err += text;
    heard();
  });
  const finished = new Promise<CommandResult>((resolve) => {
    child.once('close', (exitCode) => resolve({ exitCode, out, err }));
  });
  return {
    child,
    finished,
    until: (text) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const found = text.exec(`${out}\n${err}`);
          if (found === null) return;
          looking.delete(look);
          resolve(found[0]);
        };
        looking.add(look);
        look();
        void finished.then(({ exitCode }) => {
          if (looking.delete(look)) reject(new TypeError(`it ended (${exitCode}) without ${text}:\n${out}\n${err}`));
        });
      }),
    stop: () => {
      child.kill('SIGTERM');
      return finished;
    },
  };
}

/** Runs a command to its end. */
export function octomil(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  return startOctomil(args, options).finished;
}
