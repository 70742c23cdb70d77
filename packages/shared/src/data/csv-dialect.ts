import { closeSync, openSync, readSync } from 'node:fs';
import { gunzipSync, constants as zlib } from 'node:zlib';
import { OctomilError } from '@octomil/shared/errors';
import { isMissingText, numberOfText } from './cells.js';
import { ENCODINGS, type Encoding } from './encoding.js';
import type { DataSource } from './source.js';

export interface CsvDialect {
  readonly delimiter: string;
  readonly encoding: Encoding;
  readonly decimalSeparator: '.' | ',';
  readonly names: readonly string[];
}

/** Bytes read to find the dialect; the header line must end within them. */
const SAMPLE_BYTES = 1 << 20;
/** A gzip file of zeros unpacks to a thousand times its size: so much of it never takes more than the bound below. */
const FIRST_PART_BYTES = 1 << 14;
const MAX_SAMPLE_BYTES = 1 << 25;
const DELIMITERS = [',', ';', '\t', '|'] as const;

/**
 * Finds encoding, delimiter, decimal separator and column names from the first mebibyte of the file.
 *
 * The reader is then told all of them: left to guess, it reads a ragged file as one text column without an error.
 *
 * @throws `data_unreadable` for an empty file, a first line that is no header or is longer than a mebibyte, and for
 * big-endian UTF-16; `corrupt_file` for a broken gzip file.
 */
export function detectDialect(source: DataSource, shown = source.path): CsvDialect {
  checkSettings(source);
  const { bytes, whole } = readSample(source.path);
  const encoding = source.encoding ?? detectEncoding(bytes, whole);
  if (!ENCODINGS.includes(encoding)) {
    throw new OctomilError('invalid_input', `encoding "${encoding}" is unknown; use ${ENCODINGS.join(', ')}`);
  }
  if (encoding === 'utf-16' && bytes[0] === 0xfe && bytes[1] === 0xff) {
    throw new OctomilError('data_unreadable', `${shown} is big-endian UTF-16, which cannot be read; save it as UTF-8`);
  }
  const text = decode(bytes, encoding);
  if (text.trim() === '') {
    throw new OctomilError('data_unreadable', `${shown} is empty; it needs a header line and rows`);
  }
  const named = /\.tsv(\.gz)?$/i.test(shown) ? '\t' : undefined;
  const { comment } = source;
  const delimiter = source.delimiter ?? named ?? detectDelimiter(text, comment);
  const records = splitRecords(text, delimiter, 200, comment);
  if (source.header === false) return withoutHeader({ ...source, path: shown }, { delimiter, encoding }, records);
  const names = records[0];
  if (names === undefined || (!whole && records.length < 2)) {
    throw new OctomilError('data_unreadable', `${shown}: the header line is longer than ${SAMPLE_BYTES} bytes`);
  }
  if (looksLikeData(names, delimiter)) {
    throw new OctomilError(
      'data_unreadable',
      `${shown}: the first line holds numbers, not column names, so the file seems to have no header; put a header line above the data, or set "header" to false and name the "columns"`,
    );
  }
  const decimalSeparator = saidDecimal(source) ?? (delimiter === ',' ? '.' : detectDecimal(records.slice(1)));
  return { delimiter, encoding, decimalSeparator, names };
}

/** The separator that is set, or that another setting leaves. */
function saidDecimal({ decimalSeparator, thousandsSeparator }: DataSource): '.' | ',' | undefined {
  if (decimalSeparator !== undefined) return decimalSeparator;
  return thousandsSeparator === '.' ? ',' : thousandsSeparator === ',' ? '.' : undefined;
}

function withoutHeader(
  source: DataSource,
  found: Pick<CsvDialect, 'delimiter' | 'encoding'>,
  records: readonly (readonly string[])[],
): CsvDialect {
  const names = source.columns ?? [];
  const width = records[0]?.length ?? names.length;
  if (width !== names.length) {
    throw new OctomilError(
      'data_unreadable',
      `${source.path}: the first line has ${width} cells, but "columns" names ${names.length}; name every column in order`,
    );
  }
  const decimalSeparator = saidDecimal(source) ?? (found.delimiter === ',' ? '.' : detectDecimal(records));
  return { ...found, decimalSeparator, names };
}

/** @throws `invalid_input` for settings that contradict each other. */
function checkSettings({
  path,
  header,
  columns,
  delimiter,
  comment,
  decimalSeparator,
  thousandsSeparator,
}: DataSource) {
  const wrong =
    header === false && (columns === undefined || columns.length === 0)
      ? '"header" is false, so "columns" must name the columns in order'
      : header !== false && columns !== undefined
        ? '"columns" names the columns of a file without a header; set "header" to false'
        : comment !== undefined && (comment.length !== 1 || comment === delimiter || /["\r\n]/.test(comment))
          ? `"comment" is ${JSON.stringify(comment)}; it must be one character other than the delimiter and the quote`
          : thousandsSeparator !== undefined && thousandsSeparator === decimalSeparator
            ? `"${thousandsSeparator}" cannot separate both thousands and decimals`
            : undefined;
  if (wrong !== undefined) throw new OctomilError('invalid_input', `${path}: ${wrong}`);
}

/**
 * Whether a first line is a row of data, whose cells would leave the site as column names: half of the cells that are
 * not empty are numbers, or one is a number with decimals. A few whole numbers, such as years, do name columns.
 */
function looksLikeData(names: readonly string[], delimiter: string): boolean {
  const filled = names.filter((name) => !isMissingText(name)).map((name) => withPoint(name, delimiter));
  const numbers = filled.filter((name) => numberOfText(name) !== undefined);
  return numbers.length * 2 >= filled.length || numbers.some((name) => name.includes('.'));
}

/** A decimal comma as a point, where the comma does not separate cells. */
const withPoint = (cell: string, delimiter: string) => (delimiter === ',' ? cell : cell.replace(/(\d),(\d)/, '$1.$2'));

function readSample(path: string): { bytes: Uint8Array; whole: boolean } {
  const buffer = Buffer.alloc(SAMPLE_BYTES);
  const file = openSync(path, 'r');
  let length: number;
  try {
    length = readSync(file, buffer, 0, SAMPLE_BYTES, 0);
  } finally {
    closeSync(file);
  }
  const raw = buffer.subarray(0, length);
  if (raw[0] !== 0x1f || raw[1] !== 0x8b) return { bytes: raw, whole: length < SAMPLE_BYTES };
  // The sample ends in the middle of the stream: whatever can be had of it is enough.
  let bytes: Uint8Array = new Uint8Array(0);
  let complete = false;
  for (let part = FIRST_PART_BYTES; ; part *= 8) {
    try {
      bytes = gunzipSync(raw.subarray(0, part), { finishFlush: zlib.Z_SYNC_FLUSH, maxOutputLength: MAX_SAMPLE_BYTES });
      complete = part >= raw.length && length < SAMPLE_BYTES;
    } catch (cause) {
      // More than the sample needs: what the smaller part gave is enough.
      if (bytes.length > 0 && (cause as { code?: unknown }).code === 'ERR_BUFFER_TOO_LARGE') break;
      throw new OctomilError('corrupt_file', `${path} is not a whole gzip file; copy it again`, { cause });
    }
    if (bytes.length >= SAMPLE_BYTES || part >= raw.length) break;
  }
  return { bytes: bytes.subarray(0, SAMPLE_BYTES), whole: complete && bytes.length < SAMPLE_BYTES };
}

function detectEncoding(bytes: Uint8Array, whole: boolean): Encoding {
  const [first, second] = bytes;
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) return 'utf-16';
  try {
    // `stream` keeps a character that the sample cuts in two from counting as invalid.
    new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: !whole });
    return 'utf-8';
  } catch {
    return 'latin-1';
  }
}

function decode(bytes: Uint8Array, encoding: Encoding): string {
  if (encoding === 'utf-16') {
    return new TextDecoder('utf-16le').decode(bytes);
  }
  // Not TextDecoder('latin1'): the web calls windows-1252 by that name.
  if (encoding === 'latin-1') return Buffer.from(bytes).toString('latin1');
  return new TextDecoder('utf-8').decode(bytes);
}

/** The candidate that gives the most columns in the header while the next records agree with it. */
function detectDelimiter(text: string, comment?: string): string {
  let best: string = ',';
  let bestScore = 1;
  for (const delimiter of DELIMITERS) {
    const records = splitRecords(text, delimiter, 50, comment);
    const width = records[0]?.length ?? 0;
    const body = records.slice(1);
    const agreeing = body.filter((record) => record.length === width).length;
    const score = width <= 1 ? 0 : width * ((agreeing + 1) / (body.length + 1));
    if (score > bestScore) {
      best = delimiter;
      bestScore = score;
    }
  }
  return best;
}

function detectDecimal(records: readonly (readonly string[])[]): '.' | ',' {
  let commas = 0;
  for (const record of records) {
    for (const cell of record) {
      if (/^\s*[+-]?\d+\.\d+\s*$/.test(cell)) return '.';
      if (/^\s*[+-]?\d+,\d+\s*$/.test(cell)) commas++;
    }
  }
  return commas > 0 ? ',' : '.';
}

/**
 * The first records of a CSV text by RFC 4180: a quoted cell may hold delimiters, line ends and doubled quotes.
 * Empty lines are skipped; a last record without a line end counts. A comment goes on to the end of its line.
 */
export function splitRecords(text: string, delimiter: string, maxRecords: number, comment?: string): string[][] {
  const records: string[][] = [];
  let record: string[] = [];
  let cell = '';
  let quoted = false;
  const endRecord = () => {
    record.push(cell);
    if (record.length > 1 || cell !== '') records.push(record);
    record = [];
    cell = '';
  };
  for (let at = 0; at < text.length && records.length < maxRecords; at++) {
    const character = text[at];
    if (quoted) {
      if (character !== '"') cell += character;
      else if (text[at + 1] === '"') {
        cell += '"';
        at++;
      } else quoted = false;
    } else if (character === '"' && cell === '') quoted = true;
    else if (character === comment) {
      while (at + 1 < text.length && text[at + 1] !== '\n' && text[at + 1] !== '\r') at++;
    } else if (character === delimiter) {
      record.push(cell);
      cell = '';
    } else if (character === '\n' || character === '\r') endRecord();
    else cell += character;
  }
  if (records.length < maxRecords && (record.length > 0 || cell !== '')) endRecord();
  return records;
}
