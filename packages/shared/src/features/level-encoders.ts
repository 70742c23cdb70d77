import { type CellRequest, foldName, numberOfText, splitMarkers } from '@octomil/shared/data';
import type { ColumnEncoder } from './column-encoder.js';
import { columnWidth } from './column-width.js';
import type { CategoricalColumn, HashedColumn, OrdinalColumn } from './feature-spec.js';
import { CLIP_DEVIATIONS } from './number-encoder.js';

/** How a cell becomes its place among the levels. */
export interface LevelFinder {
  readonly cell: CellRequest;
  /** NaN for a missing cell, -1 for a value that is no level. */
  placeOf(cell: number): number;
}

export function levelFinder(column: CategoricalColumn | OrdinalColumn): LevelFinder {
  const { numbers, texts } = splitMarkers(column.missingMarkers);
  const name = foldName(column.name);
  if (column.values === 'text') {
    return {
      cell: { column: name, as: 'level', levels: column.levels, missingTexts: texts },
      placeOf: (cell) => cell,
    };
  }
  const levels = column.levels.map((level) => numberOfText(level) ?? Number.NaN);
  return {
    cell: { column: name, as: 'number', missingTexts: texts },
    placeOf: (cell) => (Number.isNaN(cell) || numbers.includes(cell) ? Number.NaN : levels.indexOf(cell)),
  };
}

export function categoricalEncoder(column: CategoricalColumn): ColumnEncoder {
  const { cell, placeOf } = levelFinder(column);
  const other = column.levels.length;
  return {
    cell,
    width: columnWidth(column),
    encode(cells, picked, count, out, at, stride) {
      for (let i = 0, to = at; i < count; i++, to += stride) {
        const place = placeOf(cells[picked[i] ?? 0] ?? Number.NaN);
        if (Number.isNaN(place)) {
          if (column.missingIndicator) out[to + other + 1] = 1;
        } else out[to + (place < 0 ? other : place)] = 1;
      }
      return true;
    },
  };
}

export function ordinalEncoder(column: OrdinalColumn): ColumnEncoder {
  const { cell, placeOf } = levelFinder(column);
  const inputs = column.levels.map((_, place) =>
    Math.min(CLIP_DEVIATIONS, Math.max(-CLIP_DEVIATIONS, (place - column.mean) / column.deviation)),
  );
  return {
    cell,
    width: columnWidth(column),
    encode(cells, picked, count, out, at, stride) {
      for (let i = 0, to = at; i < count; i++, to += stride) {
        const input = inputs[placeOf(cells[picked[i] ?? 0] ?? Number.NaN)];
        if (input !== undefined) out[to] = input;
        else if (column.missingIndicator) out[to + 1] = 1;
      }
      return true;
    },
  };
}

export function hashedEncoder(column: HashedColumn): ColumnEncoder {
  const { buckets, seed, missingIndicator } = column;
  const { texts } = splitMarkers(column.missingMarkers);
  return {
    cell: { column: foldName(column.name), as: 'digest', seed, missingTexts: texts },
    width: columnWidth(column),
    encode(cells, picked, count, out, at, stride) {
      for (let i = 0, to = at; i < count; i++, to += stride) {
        const digest = cells[picked[i] ?? 0] ?? Number.NaN;
        if (Number.isNaN(digest)) {
          if (missingIndicator) out[to + buckets] = 1;
        } else if (Number.isFinite(digest)) out[to + (digest % buckets)] = 1;
        else return false;
      }
      return true;
    },
  };
}
