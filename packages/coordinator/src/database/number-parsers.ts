/**
 * One set of type parsers for pg and PGlite, whose own ones differ: int8 and numeric arrive as numbers,
 * and what does not fit is an error rather than a rounded number.
 */

/** Object identifiers of the types (PostgreSQL, `pg_type.dat`). */
export const INT8_OID = 20;
export const NUMERIC_OID = 1700;

/** @throws RangeError beyond ±(2^53 − 1) */
export function parseInt8(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError(`int8 ${text} does not fit a number exactly`);
  return value;
}

/** Nearest double; `NaN` and the infinities as PostgreSQL writes them. @throws RangeError when it is no number or overflows */
export function parseNumeric(text: string): number {
  if (text === 'NaN') return Number.NaN;
  const value = Number(text);
  if (Number.isNaN(value) || (!Number.isFinite(value) && !/^-?Infinity$/.test(text))) {
    throw new RangeError(`numeric ${text} does not fit a number`);
  }
  return value;
}
