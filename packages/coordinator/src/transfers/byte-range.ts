import { OctomilError } from '@octomil/shared/errors';

export interface ResolvedRange {
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
}

/**
 * The one range that a `Range` header asks of `sizeBytes` bytes (RFC 9110, section 14). `undefined` means the whole:
 * for no header, and for what may be ignored (several ranges, other units, bad syntax).
 *
 * @throws `invalid_input` with `details.sizeBytes` for a range beyond the end, to be answered 416
 */
export function resolveRange(header: string | undefined, sizeBytes: number): ResolvedRange | undefined {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? '');
  if (match === null) return undefined;
  const [, first = '', last = ''] = match;
  if (first === '' && last === '') return undefined;
  const start = first === '' ? Math.max(0, sizeBytes - Number(last)) : Number(first);
  const end = first === '' || last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes);
  if (first !== '' && last !== '' && Number(last) < Number(first)) return undefined;
  if (start < sizeBytes) return { start, end };
  throw new OctomilError('invalid_input', `the range ${header} lies beyond the ${sizeBytes} bytes there are`, {
    details: { sizeBytes },
  });
}
