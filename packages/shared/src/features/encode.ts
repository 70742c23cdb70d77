import { type CellRequest, foldCell, foldName, isMissingText, numberOfText, splitMarkers } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { CategoricalColumn, FeatureColumn, FeatureSpec } from './feature-spec.js';

/** Scaled numbers are held within this many standard deviations: one typing error must not outweigh all patients. */
export const CLIP_DEVIATIONS = 10;

/** Inputs that one column takes. */
export function columnWidth(column: FeatureColumn): number {
  const values = column.kind === 'categorical' ? column.levels.length + 1 : 1;
  return values + (column.missingIndicator ? 1 : 0);
}

/** Inputs of the model: the width of one encoded row. */
export function encodedWidth(spec: Pick<FeatureSpec, 'columns'>): number {
  return spec.columns.reduce((width, column) => width + columnWidth(column), 0);
}

/** Writes a column's inputs for the picked rows; what it writes to must be zero. */
export interface ColumnEncoder {
  /** How the cell becomes a number before it is encoded. */
  readonly cell: CellRequest;
  readonly width: number;
  /**
   * Encodes `cells[picked[i]]` to `out[at + i * stride]` and on, for i below `count`.
   * Returns false where a cell is no number, in a column of numbers.
   */
  encode(
    cells: Float64Array,
    picked: Uint32Array,
    count: number,
    out: Float32Array,
    at: number,
    stride: number,
  ): boolean;
}

export function columnEncoder(column: FeatureColumn): ColumnEncoder {
  return column.kind === 'categorical' ? categoricalEncoder(column) : numericEncoder(column);
}

function numericEncoder(column: Exclude<FeatureColumn, CategoricalColumn>): ColumnEncoder {
  const { mean, deviation, missingIndicator, kind } = column;
  const { numbers, texts } = splitMarkers(column.missingMarkers);
  const hasMarkers = numbers.length > 0;
  return {
    cell: { column: foldName(column.name), as: kind === 'boolean' ? 'boolean' : 'number', missingTexts: texts },
    width: columnWidth(column),
    encode(cells, picked, count, out, at, stride) {
      for (let i = 0, to = at; i < count; i++, to += stride) {
        const value = cells[picked[i] ?? 0] ?? Number.NaN;
        const scaled = (value - mean) / deviation;
        if (scaled >= -CLIP_DEVIATIONS && scaled <= CLIP_DEVIATIONS && !(hasMarkers && numbers.includes(value))) {
          out[to] = scaled;
        } else if (Number.isNaN(value) || numbers.includes(value) || (kind === 'boolean' && !Number.isFinite(value))) {
          if (missingIndicator) out[to + 1] = 1;
        } else if (Number.isFinite(value)) out[to] = Math.sign(scaled) * CLIP_DEVIATIONS;
        else return false;
      }
      return true;
    },
  };
}

function categoricalEncoder(column: CategoricalColumn): ColumnEncoder {
  const { numbers, texts } = splitMarkers(column.missingMarkers);
  const name = foldName(column.name);
  const other = column.levels.length;
  const asText = column.values === 'text';
  const levels = column.levels.map((level) => numberOfText(level) ?? Number.NaN);
  return {
    cell: asText
      ? { column: name, as: 'level', levels: column.levels, missingTexts: texts }
      : { column: name, as: 'number', missingTexts: texts },
    width: columnWidth(column),
    encode(cells, picked, count, out, at, stride) {
      for (let i = 0, to = at; i < count; i++, to += stride) {
        const value = cells[picked[i] ?? 0] ?? Number.NaN;
        if (Number.isNaN(value) || (!asText && numbers.includes(value))) {
          if (column.missingIndicator) out[to + other + 1] = 1;
        } else {
          const index = asText ? value : levels.indexOf(value);
          out[to + (index < 0 ? other : index)] = 1;
        }
      }
      return true;
    },
  };
}

/**
 * Encodes rows given as objects, exactly as `loadDataset` encodes the same rows of a file.
 *
 * Names are matched folded; a column that a row lacks is imputed, and names that the spec does not know are ignored.
 *
 * @returns rows × `encodedWidth(spec)`, row-major.
 * @throws `invalid_input` for a value that is no number in a column of numbers, a nested value, or a row that has
 * none of the spec's columns.
 */
export function encodeRows(spec: FeatureSpec, rows: readonly Readonly<Record<string, unknown>>[]): Float32Array {
  const width = encodedWidth(spec);
  const out = new Float32Array(rows.length * width);
  const encoders = spec.columns.map((column) => ({ column, encoder: columnEncoder(column) }));
  const cells = new Float64Array(1);
  const picked = new Uint32Array(1);
  rows.forEach((row, index) => {
    const values = new Map(Object.entries(row).map(([name, value]) => [foldName(name), value]));
    if (!encoders.some(({ encoder }) => values.has(encoder.cell.column))) {
      const some = spec.columns.slice(0, 5).map(({ name }) => name);
      throw new OctomilError('invalid_input', `row ${index} has none of the model's columns (${some.join(', ')}, ...)`);
    }
    let at = index * width;
    for (const { column, encoder } of encoders) {
      cells[0] = cellOf(values.get(encoder.cell.column), encoder.cell, column.name, index);
      if (!encoder.encode(cells, picked, 1, out, at, width)) {
        throw new OctomilError('invalid_input', `row ${index}: the value of "${column.name}" is no finite number`);
      }
      at += encoder.width;
    }
  });
  return out;
}

/** A value as the readers would have read it. */
function cellOf(value: unknown, request: CellRequest, name: string, row: number): number {
  if (value === null || value === undefined) return Number.NaN;
  if (typeof value === 'string') return cellOfText(value, request);
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') {
    const number = Number(value);
    if (Number.isNaN(number)) return number;
    if (request.as === 'boolean') return number === 0 || number === 1 ? number : Number.POSITIVE_INFINITY;
    if (request.as !== 'level') return number;
    if (request.missingTexts?.includes(foldCell(String(value)))) return Number.NaN;
    if (typeof value === 'boolean') return request.levels.indexOf(String(value));
    return request.levels.findIndex((level) => numberOfText(level) === number);
  }
  throw new OctomilError(
    'invalid_input',
    `row ${row}: the value of "${name}" is ${Array.isArray(value) ? 'a list' : `a ${typeof value}`}; give a number, a text, a boolean or null`,
  );
}

function cellOfText(text: string, request: CellRequest): number {
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
