import {
  type CellRequest,
  type ColumnFamily,
  cellOfCode,
  foldCell,
  foldName,
  isMissingText,
  numberOfText,
  type PlainRequest,
} from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { cellKind, columnEncoder } from './column-encoder.js';
import { encodedWidth } from './column-width.js';
import { Pixels } from './encode-pictures.js';
import type { FeatureSpec } from './feature-spec.js';

/**
 * Encodes rows given as objects, exactly as `loadDataset` encodes the same rows of a file. Of specs with pictures, rows
 * are what `decodePictures` makes of them.
 *
 * Names are matched folded, aliases as well; numbers are in the spec's units. A column that a row lacks is imputed, and names that the spec does not know are ignored.
 *
 * @returns rows × `encodedWidth(spec)`, row-major.
 * @throws `invalid_input` for a value that is no number in a column of numbers, a nested value, or a row that has
 * none of the spec's columns.
 */
export function encodeRows(spec: FeatureSpec, rows: readonly Readonly<Record<string, unknown>>[]): Float32Array {
  const width = encodedWidth(spec);
  const out = new Float32Array(rows.length * width);
  const encoders = spec.columns.map((column) => ({
    column,
    encoder: columnEncoder(column),
    keys: [column.name, ...(column.aliases ?? [])].map(foldName),
  }));
  const picked = new Uint32Array(1);
  rows.forEach((row, index) => {
    const values = new Map(Object.entries(row).map(([name, value]) => [foldName(name), value]));
    if (!encoders.some(({ keys }) => keys.some((key) => values.has(key)))) {
      const some = spec.columns.slice(0, 5).map(({ name }) => name);
      throw new OctomilError('invalid_input', `row ${index} has none of the model's columns (${some.join(', ')}, ...)`);
    }
    let at = index * width;
    for (const { column, encoder, keys } of encoders) {
      const key = keys.find((one) => values.has(one)) ?? '';
      const { cell, origin } = encoder;
      if (cell.as === 'image') {
        encoder.encode(pixelsOf(values.get(key), column.name, index), picked, 1, out, at, width);
        at += encoder.width;
        continue;
      }
      const cells = new Float64Array(origin === undefined ? 1 : 2);
      cells[0] = cellOf(values.get(key), cell, column.name, index);
      if (origin !== undefined) cells[1] = cellOf(values.get(origin.column), origin, origin.column, index);
      if (!encoder.encode(cells, picked, 1, out, at, width)) {
        throw new OctomilError(
          'invalid_input',
          `row ${index}: the value of "${column.name}" is no ${singular(cellKind(column))}`,
        );
      }
      at += encoder.width;
    }
  });
  return out;
}

const singular = (kind: string) => kind.replace('dates', 'date').replace('texts', 'text').replace('numbers', 'number');

function pixelsOf(value: unknown, name: string, row: number): Float64Array {
  if (value === null || value === undefined) return Float64Array.of(Number.NaN);
  if (value instanceof Pixels) return value.values;
  throw new OctomilError(
    'invalid_input',
    `row ${row}: the picture of "${name}" is to be decoded first (decodePictures)`,
  );
}

/** A value as the readers would have read it. */
export function cellOf(
  value: unknown,
  request: Exclude<CellRequest, { as: 'image' }>,
  name: string,
  row: number,
): number {
  if (value === null || value === undefined) return Number.NaN;
  if (request.as === 'date' || request.as === 'digest') {
    const family = familyOf(value);
    if (family !== undefined) return cellOfCode(family === 'time' ? isoText(value) : value, family, request, NO_TEXTS);
  } else if (typeof value === 'string') return cellOfText(value, request);
  else if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') {
    const number = Number(value);
    if (Number.isNaN(number)) return number;
    if (request.as === 'boolean') return number === 0 || number === 1 ? number : Number.POSITIVE_INFINITY;
    if (request.as !== 'level') return number;
    if (typeof value === 'boolean') {
      return request.missingTexts?.includes(String(value)) === true
        ? Number.NaN
        : request.levels.indexOf(String(value));
    }
    if (request.missingTexts?.some((marker) => numberOfText(marker) === number) === true) return Number.NaN;
    return request.levels.findIndex((level) => numberOfText(level) === number);
  }
  throw new OctomilError(
    'invalid_input',
    `row ${row}: the value of "${name}" is ${Array.isArray(value) ? 'a list' : `a ${typeof value}`}; give a number, a text, a boolean or null`,
  );
}

const NO_TEXTS: ReadonlySet<string> = new Set();

function familyOf(value: unknown): ColumnFamily | undefined {
  if (typeof value === 'string') return 'text';
  if (typeof value === 'number' || typeof value === 'bigint') return 'number';
  if (typeof value === 'boolean') return 'boolean';
  return value instanceof Date ? 'time' : undefined;
}

const isoText = (value: unknown) =>
  value instanceof Date && !Number.isNaN(value.getTime()) ? value.toISOString() : 'no date';

function cellOfText(text: string, request: PlainRequest): number {
  if (isMissingText(text)) return Number.NaN;
  const folded = foldCell(text);
  const marked = request.as !== 'content' && (request.missingTexts ?? []).includes(folded);
  if (request.as === 'level') return marked ? Number.NaN : request.levels.indexOf(folded);
  const number = /^[+-]?nan$/.test(folded) ? Number.NaN : numberOfText(text);
  if (request.as === 'boolean') {
    if (marked) return Number.NaN;
    if (['true', 'yes', 'y'].includes(folded) || number === 1) return 1;
    return ['false', 'no', 'n'].includes(folded) || number === 0 ? 0 : Number.POSITIVE_INFINITY;
  }
  return number ?? (marked ? Number.NaN : Number.POSITIVE_INFINITY);
}
