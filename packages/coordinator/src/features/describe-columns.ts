import { foldName } from '@octomil/shared/data';
import {
  columnCoverage,
  type ExcludedColumn,
  encodedWidth,
  type FeatureColumn,
  type FeatureSpec,
  type SiteEntry,
} from '@octomil/shared/features';
import type { JsonObject } from '../database/tables.js';
import { type Described, ToldColumns } from './contradiction.js';

/** A column of a proposal as people read it. */
export interface ColumnView {
  readonly name: string;
  readonly kind: string;
  /** Numbers that it becomes. */
  readonly inputs: number;
  readonly unit: string | null;
  readonly aliases: readonly string[];
  readonly levels: readonly string[] | null;
  /** Two standard deviations around the mean, of numbers. */
  readonly range: readonly [number, number] | null;
  readonly missing_ratio: number;
  /** By site: the share that is missing, null where the column is not there. */
  readonly missing: Readonly<Record<string, number | null>>;
  readonly missing_markers: readonly (string | number)[];
  readonly why: string;
}

export interface LeftOutView {
  readonly name: string;
  /** Such as `identifier`, `free_text`; `excluded` on request; `left_out` by what the sites told. */
  readonly reason: string;
  readonly why: string;
  readonly sites: readonly string[];
}

/** What becomes of each column, where it is, and why. */
export function describeColumns(spec: FeatureSpec, sites: readonly SiteEntry[], request: JsonObject): ColumnView[] {
  const coverage = columnCoverage(sites, spec);
  const told = new ToldColumns(sites);
  const hints = byKey((request['hints'] ?? {}) as JsonObject);
  return spec.columns.map((column, place): ColumnView => {
    const covered = coverage[place];
    const hint = hints.get(foldName(column.name)) as JsonObject | undefined;
    return {
      name: column.name,
      kind: column.kind,
      inputs: encodedWidth({ columns: [column] }),
      unit: column.unit ?? null,
      aliases: column.aliases ?? [],
      levels: 'levels' in column ? column.levels : null,
      range: rangeOf(column),
      missing_ratio: rounded(covered?.missingRatio ?? 1),
      missing: Object.fromEntries(
        (covered?.sites ?? []).map(({ name, present, missingRatio }) => [name, present ? rounded(missingRatio) : null]),
      ),
      missing_markers: column.missingMarkers,
      why: whyOf(column, told.of(column), hint?.['kind'] !== undefined),
    };
  });
}

/** Columns that sites have and the spec has not. */
export function describeLeftOut(
  spec: FeatureSpec,
  sites: readonly SiteEntry[],
  warnings: readonly string[],
  request: JsonObject,
): LeftOutView[] {
  const used = new Set(spec.columns.flatMap((column) => [column.name, ...(column.aliases ?? [])].map(foldName)));
  used.add(foldName(spec.target.rule.column));
  const found = new Map<string, { name: string; reason: string; why: string; sites: string[] }>();
  const note = (name: string, site: string, reason: string, why: string): void => {
    const key = foldName(name);
    if (used.has(key)) return;
    const entry = found.get(key) ?? { name, reason, why, sites: [] };
    if (!entry.sites.includes(site)) entry.sites.push(site);
    found.set(key, entry);
  };
  const hints = byKey((request['hints'] ?? {}) as JsonObject);
  const dropped = whyLeftOut(warnings);
  for (const { name: site, statistics } of sites) {
    for (const { name, reason } of statistics.excluded) note(name, site, reason, EXCLUSION_WORDS[reason] ?? reason);
    for (const { name } of statistics.columns) {
      const unwanted = (hints.get(foldName(name)) as JsonObject | undefined)?.['exclude'] === true;
      if (unwanted) note(name, site, 'excluded', 'a hint excludes it');
      else note(name, site, 'left_out', dropped.get(foldName(name)) ?? 'dropped by whoever confirmed the features');
    }
  }
  return [...found.values()];
}

/** By column, as the merge has warned of it. */
function whyLeftOut(warnings: readonly string[]): Map<string, string> {
  const found = warnings.map((text) => /^column "(.*?)" is left out: (.*)$/s.exec(text));
  return new Map(found.flatMap((match) => (match === null ? [] : [[foldName(match[1] ?? ''), match[2] ?? '']])));
}

const EXCLUSION_WORDS: Partial<Record<ExcludedColumn['reason'], string>> = {
  identifier: 'it identifies people or rows',
  free_text: 'it holds many different texts; a hint kind: hashed takes it all the same',
  time: 'it holds dates or times; a hint kind: datetime derives numbers from it',
  unsupported_type: 'its type is neither number, text nor boolean',
};

/** In the column's own unit where its logarithm is encoded. */
function rangeOf(column: FeatureColumn): readonly [number, number] | null {
  if (column.kind !== 'numeric') return null;
  const { mean, deviation, scale } = column;
  const [low, high] = [mean - 2 * deviation, mean + 2 * deviation].map((value) =>
    rounded(scale === 'log1p' ? Math.sign(value) * Math.expm1(Math.abs(value)) : value),
  );
  return [low ?? 0, high ?? 0];
}

function whyOf(column: FeatureColumn, described: readonly Described[], hinted: boolean): string {
  if (hinted) return 'as hinted';
  const sites = `${described.length} ${described.length === 1 ? 'site' : 'sites'}`;
  switch (column.kind) {
    case 'numeric':
      return `numbers at ${sites}`;
    case 'boolean':
      return `true and false, or 0 and 1, at ${sites}`;
    case 'categorical':
      return column.values === 'number'
        ? `${column.levels.length} small whole numbers, taken for codes`
        : `${column.levels.length} texts that repeat, at ${sites}`;
    case 'datetime':
      return `dates; of them ${column.parts.map(({ part }) => part).join(', ')} alone`;
    case 'hashed':
      return `texts of many values, in ${column.buckets} inputs`;
    case 'ordinal':
      return `${column.levels.length} levels in their order`;
    case 'image':
      return `pictures of ${column.width} × ${column.height}`;
  }
}

function byKey(record: JsonObject): Map<string, unknown> {
  return new Map(Object.entries(record).map(([name, value]) => [foldName(name), value]));
}

/** Four significant digits: for people. */
function rounded(value: number): number {
  return Number(value.toPrecision(4));
}
