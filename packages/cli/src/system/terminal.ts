import { runProgram } from '../program.js';

export interface TerminalResult {
  readonly exitCode: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a command in this process, and what it would write to a terminal; one at a time. A new process takes a second. */
export async function inTerminal(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
): Promise<TerminalResult> {
  const before = { ...process.env };
  const { stdout, stderr } = process;
  const writes = { stdout: stdout.write, stderr: stderr.write };
  const written = { out: '', err: '' };
  const into =
    (stream: keyof typeof written) =>
    (text: string | Uint8Array, ...more: unknown[]): boolean => {
      written[stream] += typeof text === 'string' ? text : Buffer.from(text).toString();
      const done = more.find((argument) => typeof argument === 'function');
      if (done !== undefined) setImmediate(done as () => void);
      return true;
    };
  try {
    Object.assign(process.env, environment);
    stdout.write = into('out');
    stderr.write = into('err');
    const exitCode = await runProgram(args);
    return { exitCode, ...written };
  } finally {
    stdout.write = writes.stdout;
    stderr.write = writes.stderr;
    for (const name of Object.keys(environment)) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
}
