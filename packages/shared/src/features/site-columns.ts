import type { MissingMarker } from '@octomil/shared/data';
import type { NamedHint } from './feature-hints.js';
import type { SiteEntry } from './merge-statistics.js';
import type { ColumnStatistics } from './site-statistics.js';

export interface SiteColumn {
  readonly site: SiteEntry;
  readonly column: ColumnStatistics;
}

export interface MergeContext {
  /** Rows of all sites, those without the column included. */
  readonly rows: number;
  /** Markers that the user has declared; the sites have already taken them out. */
  readonly markers: readonly MissingMarker[] | undefined;
  readonly warn: (warning: string) => void;
  /** What the data scientist wishes for the column. */
  readonly hint?: NamedHint | undefined;
}

/** Missing indicators are for columns with a larger share of missing values than this. */
const INDICATOR_RATIO = 0.01;

export function levelCounts(columns: readonly SiteColumn[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { column } of columns) {
    for (const { value, count } of column.categories) counts.set(value, (counts.get(value) ?? 0) + count);
  }
  return counts;
}

export const presentRows = (columns: readonly SiteColumn[]) =>
  columns.reduce((sum, { column }) => sum + column.count + column.zeros, 0);

export const needsIndicator = (present: number, { rows }: MergeContext) => 1 - present / rows > INDICATOR_RATIO;
