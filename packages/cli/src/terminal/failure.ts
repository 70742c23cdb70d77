import { plain } from './plain.js';

/** What every error of ours has, from whichever package: a code, and a message without it. */
interface NamedFailure {
  readonly code: string;
  readonly reason: string;
  readonly requestId?: unknown;
}

/**
 * Writes an error to standard error, code first; with `OCTOMIL_DEBUG` its stack and causes as well.
 *
 * @returns the exit code: 130 for an interruption, else 1
 */
export function reportFailure(error: unknown): number {
  const debug = process.env['OCTOMIL_DEBUG'];
  if (isNamed(error)) {
    const request = typeof error.requestId === 'string' ? ` (request ${error.requestId})` : '';
    process.stderr.write(plain(`error [${error.code}]: ${error.reason}${request}\n`));
  } else {
    const message = error instanceof Error ? error.message : String(error);
    process.stderr.write(plain(`error [unknown]: ${message}\n`));
    if (debug === undefined) process.stderr.write('Set OCTOMIL_DEBUG=1 to see where it came from.\n');
  }
  if (debug !== undefined && debug !== '' && debug !== '0') {
    for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
      process.stderr.write(`${cause === error ? '' : 'caused by '}${cause.stack ?? cause.message}\n`);
    }
  }
  return isNamed(error) && error.code === 'cancelled' ? 130 : 1;
}

function isNamed(error: unknown): error is NamedFailure {
  const fields = error as { code?: unknown; reason?: unknown } | null | undefined;
  return error instanceof Error && typeof fields?.code === 'string' && typeof fields.reason === 'string';
}
