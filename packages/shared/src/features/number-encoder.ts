import { foldName, splitMarkers } from '@octomil/shared/data';
import type { ColumnEncoder } from './column-encoder.js';
import { columnWidth } from './column-width.js';
import type { BooleanColumn, NumericColumn, UnitConversion } from './feature-spec.js';

/** Scaled numbers are held within this many standard deviations: one typing error must not outweigh all patients. */
export const CLIP_DEVIATIONS = 10;

export interface Preparation {
  readonly clip?: NumericColumn['clip'] | undefined;
  readonly scale?: NumericColumn['scale'] | undefined;
}

/** What is scaled for a cell: unit, clip and logarithm applied, in this order; undefined where it is the cell itself. */
export function preparation(
  { clip, scale }: Preparation,
  conversion: UnitConversion | undefined,
): ((value: number) => number) | undefined {
  if (conversion === undefined && clip === undefined && scale === undefined) return undefined;
  const { factor, offset } = conversion ?? { factor: 1, offset: 0 };
  const [least, most] = clip ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  return (value) => {
    const held = Math.min(most, Math.max(least, value * factor + offset));
    return scale === undefined ? held : Math.sign(held) * Math.log1p(Math.abs(held));
  };
}

export function numberEncoder(column: NumericColumn | BooleanColumn, conversion?: UnitConversion): ColumnEncoder {
  const { mean, deviation, missingIndicator, kind } = column;
  const { numbers, texts } = splitMarkers(column.missingMarkers);
  const hasMarkers = numbers.length > 0;
  const prepare = preparation(kind === 'numeric' ? column : {}, conversion);
  const base = {
    cell: { column: foldName(column.name), as: kind === 'boolean' ? 'boolean' : 'number', missingTexts: texts },
    width: columnWidth(column),
  } as const;
  if (prepare !== undefined) {
    return {
      ...base,
      encode(cells, picked, count, out, at, stride) {
        for (let i = 0, to = at; i < count; i++, to += stride) {
          const value = cells[picked[i] ?? 0] ?? Number.NaN;
          if (Number.isNaN(value) || numbers.includes(value)) {
            if (missingIndicator) out[to + 1] = 1;
          } else if (Number.isFinite(value)) {
            const scaled = (prepare(value) - mean) / deviation;
            out[to] = Math.min(CLIP_DEVIATIONS, Math.max(-CLIP_DEVIATIONS, scaled));
          } else return false;
        }
        return true;
      },
    };
  }
  return {
    ...base,
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
