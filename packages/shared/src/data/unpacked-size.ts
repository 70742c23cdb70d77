import { closeSync, createReadStream, openSync, readSync } from 'node:fs';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { OctomilError } from '@octomil/shared/errors';
import type { LocatedFile } from './locate.js';

export const DEFAULT_MAX_UNPACKED_BYTES = 16 * 2 ** 30;

/** Files found to be whole and within a limit, by real path. */
const known = new Map<string, string>();
const MAX_KNOWN = 1_000;

export function isGzip(path: string): boolean {
  const start = Buffer.alloc(2);
  const file = openSync(path, 'r');
  try {
    return readSync(file, start, 0, 2, 0) === 2 && start[0] === 0x1f && start[1] === 0x8b;
  } finally {
    closeSync(file);
  }
}

/**
 * Refuses a gzip file that unpacks to more than `maxBytes` or is not whole, by unpacking it and keeping nothing: the
 * length that it states at its end is only that of its last part, and modulo 4 GiB. DuckDB reads a file that is cut
 * short as far as it goes: half a table would be taken for all of it.
 *
 * @throws `too_large`; `corrupt_file` for a file that is cut short or damaged.
 */
export async function checkGzip(file: LocatedFile, maxBytes: number): Promise<void> {
  const mark = `${file.sizeBytes} ${file.modifiedMs} ${maxBytes}`;
  if (known.get(file.path) === mark) return;
  let bytes = 0;
  const count = new Writable({
    write(chunk: Uint8Array, _, done) {
      bytes += chunk.length;
      done(bytes > maxBytes ? tooLarge(file, maxBytes) : null);
    },
  });
  try {
    await pipeline(
      createReadStream(file.path, { highWaterMark: 1 << 20 }),
      createGunzip({ chunkSize: 1 << 18 }),
      count,
    );
  } catch (cause) {
    if (cause instanceof OctomilError) throw cause;
    throw new OctomilError('corrupt_file', `${file.shown} is not a whole gzip file; copy it again`, { cause });
  }
  if (known.size >= MAX_KNOWN) known.clear();
  known.set(file.path, mark);
}

function tooLarge({ shown, sizeBytes }: LocatedFile, maxBytes: number): OctomilError {
  return new OctomilError(
    'too_large',
    `${shown} has ${sizeBytes} bytes and unpacks to more than ${maxBytes}; raise "maxUnpackedBytes" (in agent.yaml "max_unpacked_mb") if it is meant to`,
    { details: { maxBytes } },
  );
}
