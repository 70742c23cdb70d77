import { spawn } from 'node:child_process';
import { OctomilError } from '@octomil/shared/errors';

const MAX_CHARACTERS = 16 * 1024 * 1024;
const TAIL_CHARACTERS = 500;

/**
 * Runs a program of the operator, without a shell, to its end.
 *
 * @returns what it wrote to standard output
 * @throws OctomilError `config_invalid` where it cannot be started, `inference_failed` where it fails, with the end of what
 * it said; `request_timeout`, `too_large`, `cancelled`
 */
export function runForText(
  [program = '', ...args]: readonly string[],
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    let tail = '';
    let failure: OctomilError | undefined;
    const end = (why: OctomilError): void => {
      failure ??= why;
      child.kill('SIGKILL');
    };
    const onAbort = (): void => end(new OctomilError('cancelled', `${program} was stopped`));
    const timer = setTimeout(
      () => end(new OctomilError('request_timeout', `${program} took more than ${timeoutMs / 1_000} s`)),
      timeoutMs,
    );
    signal.addEventListener('abort', onAbort, { once: true });
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
      if (out.length > MAX_CHARACTERS)
        end(new OctomilError('too_large', `${program} wrote more than 16 Mi characters`));
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      tail = (tail + text).slice(-TAIL_CHARACTERS);
    });
    child.once('error', (cause) => {
      failure ??= new OctomilError(
        'config_invalid',
        `${program} of OCTOMIL_TRANSCRIBE_COMMAND cannot be started (${(cause as { code?: string }).code})`,
        { cause },
      );
    });
    child.once('close', (exitCode, endedBy) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      if (failure !== undefined) reject(failure);
      else if (exitCode === 0) resolve(out);
      else {
        const how = exitCode === null ? `was ended by ${endedBy}` : `ended with exit code ${exitCode}`;
        const said = tail.trim() === '' ? '' : `: ${tail.trim()}`;
        reject(new OctomilError('inference_failed', `${program} ${how}${said}`));
      }
    });
    if (signal.aborted) onAbort();
  });
}
