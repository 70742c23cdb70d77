import { type CellRequest, dateOfText, foldName, splitMarkers } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { ColumnEncoder } from './column-encoder.js';
import { columnWidth, isCycle, valueWidth } from './column-width.js';
import type { DateCycle, DateSpan, DatetimeColumn } from './feature-spec.js';
import { CLIP_DEVIATIONS } from './number-encoder.js';

const DAY_MS = 86_400_000;
const SPAN_MS: Readonly<Record<DateSpan, number>> = { days: DAY_MS, years: 365.2425 * DAY_MS };

/** Time from `fromMs` to `dateMs`. */
export function spanOf(span: DateSpan, dateMs: number, fromMs: number): number {
  return (dateMs - fromMs) / SPAN_MS[span];
}

type DateColumn = Pick<DatetimeColumn, 'name' | 'format' | 'from' | 'missingMarkers'>;

type DateCell = Extract<CellRequest, { as: 'date' }>;

/** The cells that a column of dates needs: its own, and those of the column that it is measured from. */
export function dateCells({ name, format, from, missingMarkers }: DateColumn): [DateCell, DateCell?] {
  const cell: DateCell = {
    column: foldName(name),
    as: 'date',
    format,
    missingTexts: splitMarkers(missingMarkers).texts,
  };
  return typeof from === 'object' ? [cell, { column: foldName(from.column), as: 'date', format }] : [cell];
}

/** Milliseconds of a fixed reference date; 0 where there is none. @throws `invalid_input` for what is no ISO date */
export function fixedReference({ name, from }: Pick<DatetimeColumn, 'name' | 'from'>): number {
  if (typeof from !== 'string') return 0;
  const date = dateOfText(from, 'iso');
  if (date !== undefined) return date;
  throw new OctomilError(
    'invalid_input',
    `the column "${name}" is measured from "${from}", which is no date; write it as 2020-12-31`,
  );
}

export function datetimeEncoder(column: DatetimeColumn): ColumnEncoder {
  const { parts, missingIndicator } = column;
  const [cell, origin] = dateCells(column);
  const fixed = fixedReference(column);
  const indicator = valueWidth(column);
  const encodeDate = (date: number, from: number, out: Float32Array, at: number) => {
    let to = at;
    for (const part of parts) {
      if (isCycle(part)) {
        const angle = 2 * Math.PI * placeInCycle(part.part, date);
        out[to++] = Math.sin(angle);
        out[to++] = Math.cos(angle);
      } else {
        const scaled = (spanOf(part.part, date, from) - part.mean) / part.deviation;
        out[to++] = Math.min(CLIP_DEVIATIONS, Math.max(-CLIP_DEVIATIONS, scaled));
      }
    }
  };
  return {
    cell,
    ...(origin === undefined ? {} : { origin }),
    width: columnWidth(column),
    encode(cells, picked, count, out, at, stride) {
      const half = origin === undefined ? 0 : cells.length / 2;
      for (let i = 0, to = at; i < count; i++, to += stride) {
        const row = picked[i] ?? 0;
        const date = cells[row] ?? Number.NaN;
        const from = origin === undefined ? fixed : (cells[half + row] ?? Number.NaN);
        if (!Number.isNaN(date + from) && Number.isFinite(date) && Number.isFinite(from)) {
          encodeDate(date, from, out, to);
        } else if (Math.abs(date) === Number.POSITIVE_INFINITY || Math.abs(from) === Number.POSITIVE_INFINITY) {
          return false;
        } else if (missingIndicator) out[to + indicator] = 1;
      }
      return true;
    },
  };
}

/** 0 to 1: month of the year, day of the week from Monday, hour of the day, each as a whole. */
function placeInCycle(cycle: DateCycle, dateMs: number): number {
  const date = new Date(dateMs);
  switch (cycle) {
    case 'month':
      return date.getUTCMonth() / 12;
    case 'weekday':
      return ((date.getUTCDay() + 6) % 7) / 7;
    case 'hour':
      return date.getUTCHours() / 24;
  }
}
