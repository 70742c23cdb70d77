import { OctomilError } from '@octomil/shared/errors';
import type { ByteRange } from '@octomil/shared/storage';

/**
 * Reads a `Range` header (RFC 9110, section 14). Several ranges, other units and malformed ones are ignored, as the RFC
 * allows: the whole is sent.
 *
 * @throws OctomilError `invalid_input` when the range begins beyond the end; answer 416
 */
export function parseByteRange(header: string | undefined, sizeBytes: number): ByteRange | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  const [, first = '', last = ''] = match ?? [];
  if (match === null || (first === '' && last === '')) return undefined;
  if (first === '') {
    const count = Math.min(Number(last), sizeBytes);
    if (count === 0) throw unsatisfiable(header ?? '', sizeBytes);
    return { start: sizeBytes - count, end: sizeBytes };
  }
  const start = Number(first);
  if (last !== '' && Number(last) < start) return undefined;
  if (start >= sizeBytes) throw unsatisfiable(header ?? '', sizeBytes);
  return { start, end: last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes) };
}

function unsatisfiable(header: string, sizeBytes: number): OctomilError {
  return new OctomilError('invalid_input', `Range ${header} lies beyond the ${sizeBytes} bytes there are`);
}
