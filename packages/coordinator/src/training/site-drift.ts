import { type ColumnDrift, severityOf } from '@octomil/shared/features';
import type { JsonObject } from '../database/tables.js';
import type { RoundRow } from './session-store.js';

/** A column's name and its measures, as the site calls them. */
export type DriftColumn = Readonly<Record<string, string | number>>;

/** How far a site's rows are from what the spec was made of, as it told with its update. */
export interface DriftReport {
  /** Those of which it has something to say. */
  readonly columns: readonly DriftColumn[];
  /** Where it differs from the others, of whose rows the spec was made; for people, empty where nothing stands out. */
  readonly warnings: readonly string[];
  /** What has changed since its first report, for people; absent where this is the first. */
  readonly changed?: readonly string[];
  /** How many did not fit beside those of the round's other sites; absent where all did. */
  readonly left_out?: { readonly columns: number; readonly warnings: number; readonly changed?: number };
}

/** What all sites of one round may take together. */
const ROUND_BYTES = 1_000_000;
/** What all rounds of a session may take together, as they are read together. */
const SESSION_BYTES = 32_000_000;
/** Of a session of very many rounds, each one's. */
const LEAST_ROUND_BYTES = 16_000;

const MAX_COLUMNS = 200;
const MAX_MEASURES = 12;
const MAX_MEASURE_NAME = 60;
const MAX_WARNINGS = 50;
const MAX_TEXT = 500;

/** What a site may say of its drift; null where it says none. Bounded: it is kept with every round. */
export function readDrift(value: unknown): DriftReport | null {
  if (!isObject(value)) return null;
  const { columns, warnings } = value;
  const entries = Array.isArray(columns)
    ? columns
    : Object.entries(isObject(columns) ? columns : {}).map(([name, measures]) =>
        isObject(measures) ? { name, ...measures } : measures,
      );
  return {
    columns: entries
      .slice(0, MAX_COLUMNS)
      .map(readColumn)
      .filter((column) => column !== null),
    warnings: Array.isArray(warnings)
      ? warnings
          .filter((warning) => typeof warning === 'string')
          .slice(0, MAX_WARNINGS)
          .map(cut)
      : [],
  };
}

function readColumn(column: unknown): DriftColumn | null {
  if (!isObject(column)) return null;
  const { name } = column;
  if (typeof name !== 'string') return null;
  const measures = Object.entries(column).filter(
    (entry): entry is [string, number] =>
      entry[0].length <= MAX_MEASURE_NAME && typeof entry[1] === 'number' && Number.isFinite(entry[1]),
  );
  return { name: cut(name), ...Object.fromEntries(measures.slice(0, MAX_MEASURES)) };
}

/** Bytes that the drift of a round may take, in a session of so many. */
export function driftBytes(rounds: number): number {
  return Math.min(ROUND_BYTES, Math.max(LEAST_ROUND_BYTES, Math.floor(SESSION_BYTES / rounds)));
}

/**
 * The reports of a round within `maxBytes` of JSON: the more sites, the fewer columns and warnings of each, those columns
 * that drifted most first. What a site needs less than its share of, the others have. Site names come on top.
 */
export function boundDrift(
  reports: readonly (readonly [site: string, report: DriftReport])[],
  maxBytes: number,
): Readonly<Record<string, DriftReport>> {
  const bounded = new Map<string, DriftReport>();
  let left = maxBytes;
  const sized = reports.map(([site, report]) => ({ site, report, bytes: bytesOf(report) }));
  for (const [place, { site, report, bytes }] of sized.toSorted((a, b) => a.bytes - b.bytes).entries()) {
    const share = left / (sized.length - place);
    const kept = bytes <= share ? report : cutReport(report, share);
    bounded.set(site, kept);
    left = Math.max(0, left - (kept === report ? bytes : bytesOf(kept)));
  }
  return Object.fromEntries(reports.map(([site, report]) => [site, bounded.get(site) ?? report]));
}

/** Texts may take half, changes first: they are what people look at, the measures what programs do. */
function cutReport({ columns, warnings, changed }: DriftReport, maxBytes: number): DriftReport {
  const cutTo = (kept: Pick<DriftReport, 'columns' | 'warnings'>, news: readonly string[]): DriftReport => ({
    ...kept,
    ...(changed === undefined ? {} : { changed: news }),
    left_out: {
      columns: columns.length - kept.columns.length,
      warnings: warnings.length - kept.warnings.length,
      ...(changed === undefined ? {} : { changed: changed.length - news.length }),
    },
  });
  const room = maxBytes - bytesOf(cutTo({ columns: [], warnings: [] }, []));
  const news = within(changed ?? [], room / 2);
  const said = within(warnings, room / 2 - sizeOf(news));
  const severity = new Map(columns.map((column) => [column, finiteSeverity(column)]));
  const worst = columns.toSorted((a, b) => (severity.get(b) ?? 0) - (severity.get(a) ?? 0));
  const kept = new Set(within(worst, room - sizeOf(news) - sizeOf(said)));
  return cutTo({ columns: columns.filter((column) => kept.has(column)), warnings: said }, news);
}

/** With the commas between them. */
const sizeOf = (texts: readonly string[]): number => texts.reduce((sum, text) => sum + bytesOf(text) + 1, 0);

/** The first ones that fit, with the commas between them. */
function within<T>(values: readonly T[], maxBytes: number): T[] {
  let bytes = 0;
  const end = values.findIndex((value) => {
    bytes += bytesOf(value) + 1;
    return bytes > maxBytes;
  });
  return values.slice(0, end < 0 ? values.length : end);
}

/** Sites may name other measures than ours, and leave out any. */
function finiteSeverity(column: DriftColumn): number {
  const severity = severityOf(column as unknown as ColumnDrift);
  return Number.isFinite(severity) ? severity : 0;
}

const bytesOf = (value: unknown): number => Buffer.byteLength(JSON.stringify(value));

/** Cutting may halve a surrogate pair, which no JSON column takes. */
function cut(text: string): string {
  return text.slice(0, MAX_TEXT).toWellFormed();
}

function hasWarnings({ warnings, left_out }: DriftReport): boolean {
  return warnings.length > 0 || (left_out?.warnings ?? 0) > 0;
}

function hasChanged({ changed = [], left_out }: DriftReport): boolean {
  return changed.length > 0 || (left_out?.changed ?? 0) > 0;
}

/** That it differs from the others is news where a site reports first, and goes on as long as it does. */
function isNew(report: DriftReport): boolean {
  return report.changed === undefined && hasWarnings(report);
}

/** Sites of which an event speaks, and texts of each. */
const MAX_TOLD_SITES = 100;
const MAX_TOLD = 10;

/** What a round brought: where sites differ that report first, where those have changed that had reported; or undefined. */
export function driftNews(
  reports: Readonly<Record<string, DriftReport>>,
): { readonly sites: JsonObject; readonly changed: JsonObject } | undefined {
  const bySite = (
    isTold: (report: DriftReport) => boolean,
    texts: (report: DriftReport) => readonly string[],
  ): JsonObject =>
    Object.fromEntries(
      Object.entries(reports)
        .filter(([, report]) => isTold(report))
        .slice(0, MAX_TOLD_SITES)
        .map(([site, report]) => {
          const [first, ...more] = texts(report).slice(0, MAX_TOLD);
          return [site, first === undefined ? ['too much to be kept'] : [first, ...more]];
        }),
    );
  const sites = bySite(isNew, ({ warnings }) => warnings);
  const changed = bySite(hasChanged, ({ changed: texts = [] }) => texts);
  return Object.keys({ ...sites, ...changed }).length === 0 ? undefined : { sites, changed };
}

/** The drift of each train round that counted, oldest first. */
export function driftRounds(rounds: readonly RoundRow[]): JsonObject[] {
  return rounds
    .filter(({ kind, state }) => kind === 'train' && state === 'completed')
    .map((round) => {
      const sites = (round.metrics['drift'] ?? {}) as Readonly<Record<string, DriftReport>>;
      const reports = Object.values(sites);
      return {
        round_id: round.id,
        round_number: round.number,
        reporting_sites: reports.length,
        drifted_sites: reports.filter(hasWarnings).length,
        new_drifted_sites: reports.filter(isNew).length,
        changed_sites: reports.filter(hasChanged).length,
        sites,
      };
    });
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
