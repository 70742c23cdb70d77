import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { FALSE_TEXTS, foldCell, isMissingText, numberOfText, TRUE_TEXTS, trimCell } from './cells.js';
import { dateOfText } from './date-cells.js';
import type { CellRequest, ColumnFamily } from './table-reader.js';

/** Values as JavaScript readers of Parquet give them. */
export type CellValue = unknown;

/** The cell of a value by the rules of `CellRequest`, as DuckDB's reader has them in SQL. */
export function cellOfValue(
  value: CellValue,
  family: ColumnFamily,
  request: CellRequest,
  missingTexts: ReadonlySet<string>,
): number {
  if (value === null || value === undefined) return Number.NaN;
  if (request.as === 'image') throw noPictures(request.column);
  if (request.as === 'date' || request.as === 'digest') return cellOfCode(value, family, request, missingTexts);
  if (family === 'number' || (family === 'boolean' && request.as !== 'level')) {
    return cellOfNumber(Number(value), request);
  }
  const text = textOfValue(value);
  if (family !== 'text' && request.as !== 'level') {
    return request.as === 'content' ? textDigest(text) : Number.POSITIVE_INFINITY;
  }
  return cellOfText(text, request, missingTexts);
}

/** What a table's reader says when it is asked for pictures. */
export function noPictures(column: string): OctomilError {
  return new OctomilError(
    'data_mismatch',
    `the column "${column}" is to hold pictures, but the data set is a table; name its pictures in the configuration (images)`,
  );
}

type CodeRequest = Extract<CellRequest, { as: 'date' | 'digest' }>;

/** Cells of which the spelling counts: dates, and texts that are hashed. */
export function cellOfCode(
  value: CellValue,
  family: ColumnFamily,
  request: CodeRequest,
  missingTexts: ReadonlySet<string>,
): number {
  if (request.as === 'date' && (family === 'boolean' || family === 'unsupported')) return Number.POSITIVE_INFINITY;
  if (request.as === 'date' && family === 'number' && request.format !== 'yyyymmdd') {
    return Number.isNaN(Number(value)) ? Number.NaN : Number.POSITIVE_INFINITY;
  }
  const text = family === 'number' ? digitsOf(value) : textOfValue(value);
  if (text === undefined) return Number.isNaN(Number(value)) ? Number.NaN : Number.POSITIVE_INFINITY;
  return codeOfText(
    text,
    family === 'time' && request.as === 'date' ? { ...request, format: 'iso' } : request,
    (cell) => isMissingValue(cell, missingTexts),
  );
}

/** A text as a date or digest. */
function codeOfText(text: string, request: CodeRequest, isMissing: (text: string) => boolean): number {
  const folded = foldCell(text);
  if (isMissing(text) || request.missingTexts?.some((marker) => foldCell(marker) === folded) === true) {
    return Number.NaN;
  }
  if (request.as === 'digest') return textDigest(`${request.seed}:${folded}`);
  return dateOfText(text, request.format) ?? Number.POSITIVE_INFINITY;
}

/** The digits of a whole number that is exact; undefined for others. */
function digitsOf(value: unknown): string | undefined {
  if (typeof value === 'bigint') return String(value);
  return Number.isSafeInteger(Number(value)) ? String(Number(value) + 0) : undefined;
}

export type PlainRequest = Exclude<CellRequest, CodeRequest | { as: 'image' }>;

function cellOfNumber(number: number, request: PlainRequest): number {
  if (Number.isNaN(number)) return number;
  if (request.as === 'level') {
    if (request.missingTexts?.some((marker) => numberOfText(marker) === number) === true) return Number.NaN;
    return request.levels.findIndex((level) => numberOfText(level) === number);
  }
  if (request.as === 'boolean') return number === 0 || number === 1 ? number : Number.POSITIVE_INFINITY;
  return number;
}

function cellOfText(text: string, request: PlainRequest, missingTexts: ReadonlySet<string>): number {
  const folded = foldCell(text);
  const marked = request.as !== 'content' && (request.missingTexts ?? []).some((marker) => foldCell(marker) === folded);
  const missing = marked || isMissingValue(text, missingTexts);
  if (request.as === 'level') return missing ? Number.NaN : request.levels.indexOf(folded);
  const number = numberOfCell(text);
  if (request.as === 'boolean') {
    if (marked) return Number.NaN;
    if (number === 1 || TRUE_TEXTS.some((one) => one === folded)) return 1;
    if (number === 0 || FALSE_TEXTS.some((one) => one === folded)) return 0;
    return missing ? Number.NaN : Number.POSITIVE_INFINITY;
  }
  if (number !== undefined) return number;
  if (missing) return Number.NaN;
  return request.as === 'content' ? textDigest(text) : Number.POSITIVE_INFINITY;
}

export function isMissingValue(text: string, missingTexts: ReadonlySet<string>): boolean {
  return isMissingText(text) || missingTexts.has(trimCell(text));
}

/** As `numberOfText`, and infinity spelled out. */
export function numberOfCell(text: string): number | undefined {
  const infinite = /^([+-]?)inf(?:inity)?$/i.exec(trimCell(text));
  if (infinite === null) return numberOfText(text);
  return infinite[1] === '-' ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
}

/** A value as DuckDB spells it; times in UTC. */
export function textOfValue(value: CellValue): string {
  if (typeof value === 'string') return value;
  if (value instanceof Uint8Array) return Buffer.from(value).toString('utf8');
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** 52 bits of the MD5: exact in a double. */
export function textDigest(text: string): number {
  return bytesDigest(Buffer.from(text));
}

/** The same of bytes. */
export function bytesDigest(bytes: Uint8Array): number {
  return Number(createHash('md5').update(bytes).digest().readBigUInt64LE(8) % (1n << 52n));
}
