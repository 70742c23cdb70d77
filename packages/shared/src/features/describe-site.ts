import {
  type CellRequest,
  type ColumnProfile,
  type DataSource,
  foldName,
  type ImageShape,
  type MemoryBudget,
  type MissingMarker,
  openTable,
  type TableColumn,
  type TableReader,
} from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { unitOf } from './bind-columns.js';
import { describeColumn } from './describe-column.js';
import { checkImageShape, describeImages } from './describe-image.js';
import type { FeatureHints } from './feature-hints.js';
import { agreedKey, hintedNames, hintsByKey, markersByKey } from './feature-hints.js';
import { allMoments } from './moments.js';
import { parseHints, refuseTargetHints } from './parse-hints.js';
import { siteUnits, withSiteNames } from './site-names.js';
import {
  type ColumnStatistics,
  type ExcludedColumn,
  type Exclusion,
  MAX_LEVELS,
  MINIMUM_ROWS,
  type SiteStatistics,
  type TargetStatistics,
} from './site-statistics.js';
import { isCodes, roundCount, seenKind, suppressColumn } from './suppression.js';
import { compareCell, targetCell } from './target-cells.js';
import type { TargetRule } from './target-rule.js';

export interface DescribeRequest {
  readonly target: TargetRule;
  /** Values that mean "missing", by column name: `{ chol: [0], weight: [-9] }`. */
  readonly missingMarkers?: Readonly<Record<string, readonly MissingMarker[]>>;
  /** Columns to leave out, without a word about them. */
  readonly exclude?: readonly string[];
  /** What the data scientist wishes; a kind takes in columns that are left out by default. */
  readonly hints?: FeatureHints;
  /** What the model's pictures are resized to. Without it pictures are left out. */
  readonly imageShape?: ImageShape;
}

/**
 * Describes a site's table by aggregates alone, as `suppressColumn` allows them.
 *
 * Identifiers, free text and dates are left out and named: a model must not learn them, nor are their values counted. A
 * hint with a kind takes one in.
 *
 * @throws `too_few_rows` for a table of fewer than 10 rows; `data_mismatch` where a comparison of the target meets
 * text; `cancelled`; `data_unreadable` and `corrupt_file` as `openTable`.
 */
export async function describeSite(
  source: DataSource,
  request: DescribeRequest,
  signal?: AbortSignal,
  memory?: MemoryBudget,
): Promise<SiteStatistics> {
  const reader = await openTable(source, memory);
  try {
    return await describeTable(reader, request, signal);
  } finally {
    reader.close();
  }
}

/** `describeSite` for an open table of any reader. */
export async function describeTable(
  opened: TableReader,
  request: DescribeRequest,
  signal?: AbortSignal,
): Promise<SiteStatistics> {
  if (request.imageShape !== undefined) checkImageShape(request.imageShape);
  const hinted = request.hints === undefined ? {} : parseHints(request.hints);
  refuseTargetHints(hinted, request.target.column);
  const hints = hintsByKey(hinted);
  const reader = withSiteNames(opened, [...hints.values()].map(({ name }) => name).concat([...hints.keys()]));
  const rows = await reader.countRows();
  refuseCancelled(signal);
  if (rows < MINIMUM_ROWS) {
    throw new OctomilError(
      'too_few_rows',
      `${reader.source.path} has fewer than ${MINIMUM_ROWS} rows; a site takes part with at least ${MINIMUM_ROWS}`,
    );
  }
  const declared = markersByKey(request.missingMarkers, hints);
  const missingMarkers = new Map(
    reader.columns.flatMap(({ key }) => {
      const markers = declared.get(agreedKey(key, hints));
      return markers === undefined ? [] : [[key, markers] as const];
    }),
  );
  const targetKey = foldName(request.target.column);
  const unwanted = new Set((request.exclude ?? []).map((name) => agreedKey(name, hints)));
  const isWanted = (key: string) => !unwanted.has(agreedKey(key, hints)) && hints.get(key)?.hint.exclude !== true;
  const profiles = await reader.profile({
    columns: reader.columns.map(({ key }) => key).filter((key) => key === targetKey || isWanted(key)),
    maxLevels: MAX_LEVELS,
    missingMarkers,
  });
  refuseCancelled(signal);
  const excluded: ExcludedColumn[] = [];
  const units = siteUnits(reader.source);
  const columns: ColumnStatistics[] = [];
  for (const profile of profiles) {
    if (profile.key === targetKey) continue;
    if (profile.family === 'image' && request.imageShape !== undefined) {
      const images = await describeImages(reader, profile, request.imageShape, rows, signal);
      if (images !== null) columns.push(images);
      continue;
    }
    const named = hints.get(profile.key);
    const reason = exclusion(profile);
    if (named?.hint.kind === undefined && reason !== undefined) {
      excluded.push({ name: profile.name, reason });
      continue;
    }
    const unit = unitOf(units, profile.key, named === undefined ? [] : [foldName(named.name)]);
    const markers = missingMarkers.get(profile.key) ?? [];
    const column = await describeColumn({
      reader,
      profile,
      hint: named?.hint ?? {},
      names: hintedNames(named, profile.name),
      markers,
      unit,
      rows,
    });
    if (column !== null) columns.push(column);
    refuseCancelled(signal);
  }
  const profile = profiles.find(({ key }) => key === targetKey);
  const target =
    profile === undefined
      ? null
      : await describeTarget(reader, request.target, profile, missingMarkers.get(targetKey) ?? [], rows);
  return { formatVersion: 1, rows: roundCount(rows), columns, excluded, target };
}

function refuseCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new OctomilError('cancelled', 'describing the table was cancelled');
}

const IDENTIFYING =
  /^(id|.*_id|id_.*|.*_?mrn|.*_?ssn|.*_?uuid|guid|nhs_number|(.*_)?(first|last|full|middle|given|family|sur|patient)_?name|name|dob|.*_dob|(date_of_)?birth_?(date|day)?|(.*_)?(address|street|phone|telephone|e_?mail|zip|zip_?code|postcode|postal_code))$/;

/** Whom or what a number counts up, such as `PatientID` and `Medical Record No`: drawn at random, no value tells it. */
const NUMBERED =
  /^(.*_)?((patient|subject|person|participant|member|record|case|study|visit|encounter|admission|episode|stay|hadm|sample|specimen|account|insurance)id|(patient|subject|person|participant|record|chart|account|insurance|passport|social_security)_?(no|nr|num|number))$/;

const DATE = /^(?:\d{4}([-/])\d{2}\1\d{2}|\d{1,2}([./])\d{1,2}\2\d{4})(?:[t ]|$)/;

/** Why a column is no feature. An empty column is judged by its name alone. */
export function exclusion(profile: ColumnProfile): Exclusion | undefined {
  if (IDENTIFYING.test(profile.key) || NUMBERED.test(profile.key) || profile.sequential) return 'identifier';
  if (profile.family === 'time') return 'time';
  if (profile.family === 'text' && profile.levels !== null && profile.levels.length > 0) {
    if (profile.levels.every(({ value }) => DATE.test(value))) return 'time';
  }
  if (profile.family === 'unsupported' || profile.family === 'image') return 'unsupported_type';
  // Text that is mostly numbers is reported: it is an error where the column is numeric elsewhere.
  if (profile.present < MINIMUM_ROWS || seenKind(profile) !== 'text' || profile.levels !== null) return undefined;
  if (isCodes(profile)) return undefined;
  if (profile.numbers > profile.present / 2 && !profile.hasCodes) return undefined;
  return profile.distinctEstimate > profile.present * 0.9 ? 'identifier' : 'free_text';
}

async function describeTarget(
  reader: TableReader,
  rule: TargetRule,
  profile: ColumnProfile,
  markers: readonly MissingMarker[],
  rows: number,
): Promise<TargetStatistics | null> {
  const asked = rule.comparison === undefined ? profile : await compareAll(reader, rule, profile, markers);
  const statistics = suppressColumn(asked, rows);
  if (statistics === null) return null;
  const { name, seen, count, missing, zeros, categories, other, levels } = statistics;
  return {
    column: name,
    seen,
    count: count + zeros,
    missing,
    classes: levels === null ? null : categories,
    other,
    moments: rule.comparison === undefined && statistics.moments !== null ? allMoments(statistics) : null,
  };
}

/** The profile of the column that a comparison makes: values 0 and 1. */
async function compareAll(
  reader: TableReader,
  rule: TargetRule,
  column: TableColumn,
  markers: readonly MissingMarker[],
): Promise<ColumnProfile> {
  const cell: CellRequest = targetCell(column.key, rule, markers);
  const counts: [number, number] = [0, 0];
  for await (const chunk of reader.stream([cell])) {
    const [values] = chunk.columns;
    for (let row = 0; row < chunk.rows; row++) {
      const answer = compareCell(rule, values?.[row] ?? Number.NaN, markers, reader.source.path);
      if (answer === 0 || answer === 1) counts[answer]++;
    }
  }
  const present = counts[0] + counts[1];
  const levels = counts.map((count, value) => ({ value: String(value), count })).filter(({ count }) => count > 0);
  return {
    name: column.name,
    key: column.key,
    family: 'number',
    present,
    numbers: present,
    hasCodes: false,
    whole: true,
    distinctEstimate: levels.length,
    sequential: false,
    mean: 0,
    deviation: 0,
    zeros: 0,
    nonZeroMean: 0,
    nonZeroDeviation: 0,
    levels,
  };
}
