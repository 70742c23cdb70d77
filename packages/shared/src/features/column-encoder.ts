import type { CellRequest } from '@octomil/shared/data';
import { datetimeEncoder } from './date-encoder.js';
import type { FeatureColumn, UnitConversion } from './feature-spec.js';
import { imageEncoder } from './image-encoder.js';
import { categoricalEncoder, hashedEncoder, ordinalEncoder } from './level-encoders.js';
import { numberEncoder } from './number-encoder.js';

/** Writes a column's inputs for the picked rows; what it writes to must be zero. */
export interface ColumnEncoder {
  /** How the cell becomes a number before it is encoded. */
  readonly cell: CellRequest;
  /** Of another column, for dates that are measured from it: its cells follow those of `cell` in one array. */
  readonly origin?: Exclude<CellRequest, { as: 'image' }>;
  readonly width: number;
  /**
   * Encodes `cells[picked[i]]`, of pictures the numbers that are one cell, to `out[at + i * stride]` and on, for i below `count`.
   * Returns false where a cell is not of the column's kind, as text in a column of numbers.
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

/** @param conversion from the unit of the cells to the column's */
export function columnEncoder(column: FeatureColumn, conversion?: UnitConversion): ColumnEncoder {
  switch (column.kind) {
    case 'numeric':
    case 'boolean':
      return numberEncoder(column, conversion);
    case 'categorical':
      return categoricalEncoder(column);
    case 'ordinal':
      return ordinalEncoder(column);
    case 'hashed':
      return hashedEncoder(column);
    case 'datetime':
      return datetimeEncoder(column);
    case 'image':
      return imageEncoder(column);
  }
}

/** What cells of the column's kind are, for messages. */
export function cellKind(column: FeatureColumn): string {
  if (column.kind === 'datetime') {
    return `dates ${column.format === 'iso' ? 'such as 2020-12-31' : `as ${column.format}`}`;
  }
  return column.kind === 'hashed' ? 'texts or whole numbers' : 'finite numbers';
}
