import { foldName, type MissingMarker } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import {
  agreedKey,
  type FeatureHints,
  hintedNames,
  hintsByKey,
  markersByKey,
  type NamedHint,
} from './feature-hints.js';
import type { FeatureColumn, FeatureLayout, FeatureSpec, TargetOutput } from './feature-spec.js';
import { aliasesOf, mergeColumn, nameOf, usableRows } from './merge-column.js';
import { holdsImages, mergeImages } from './merge-images.js';
import { mergeTarget, mismatch } from './merge-target.js';
import { allMoments, combineMoments, NO_MOMENTS, roundConstant } from './moments.js';
import { compareNaturally } from './natural-order.js';
import { refuseTargetHints } from './parse-hints.js';
import { MAX_SPEC_COLUMNS } from './parse-spec.js';
import type { SiteColumn } from './site-columns.js';
import { type Exclusion, MINIMUM_ROWS, type SiteStatistics } from './site-statistics.js';
import { sealFeatureSpec } from './spec-hash.js';
import type { TargetRule } from './target-rule.js';

export interface SiteEntry {
  readonly deviceId: string;
  /** For people, in errors and warnings. */
  readonly name: string;
  readonly statistics: SiteStatistics;
}

export interface MergeOptions {
  readonly target: TargetRule;
  /** The model's output. Default: binary for two classes, multiclass for more. */
  readonly output?: TargetOutput['kind'];
  /** As given to the sites (`DescribeRequest`); wins over what is found by itself. */
  readonly missingMarkers?: Readonly<Record<string, readonly MissingMarker[]>>;
  readonly exclude?: readonly string[];
  /** As given to the sites. */
  readonly hints?: FeatureHints;
  /** Default `table`. */
  readonly layout?: FeatureLayout;
  /** Told what a person should know: columns left out, zeros taken as missing, a site with one class. */
  readonly onWarning?: (warning: string) => void;
}

/**
 * Merges the sites' aggregates, in the order given (device order), into the one spec that all encode by.
 *
 * A column that one site lacks is kept and imputed there. Constants have six significant digits.
 *
 * @throws `data_mismatch`, naming the site and why, where a site has no target, no usable column, or text in a column
 * that is numeric elsewhere; also where the target has one class over all sites, or no column can serve.
 * `invalid_input` without sites, where target and output contradict each other, or a hint reads the target as a feature.
 */
export function mergeStatistics(sites: readonly SiteEntry[], options: MergeOptions): FeatureSpec {
  if (sites.length === 0) throw new OctomilError('invalid_input', 'there are no site statistics to merge');
  refuseTargetHints(options.hints ?? {}, options.target.column);
  const warn = options.onWarning ?? (() => undefined);
  const hints = hintsByKey(options.hints);
  const markers = markersByKey(options.missingMarkers, hints);
  const targetKey = foldName(options.target.column);
  const target = mergeTarget(sites, options.target, options.output, markers.get(targetKey) ?? [], warn);
  const unwanted = new Set([targetKey, ...(options.exclude ?? []).map((name) => agreedKey(name, hints))]);
  for (const { name, hint } of hints.values()) if (hint.exclude === true) unwanted.add(foldName(name));
  const byKey = columnsByKey(sites, unwanted, hints, warn);
  const rows = sites.reduce((sum, { statistics }) => sum + statistics.rows, 0);
  warnOfExclusions(sites, byKey, warn);
  const layout = options.layout ?? 'table';
  const columns =
    layout === 'grid'
      ? mergeGrid(byKey, { rows, hints, warn })
      : [...byKey].flatMap(
          ([key, entries]) =>
            mergeColumn(entries, { rows, markers: markers.get(key), warn, hint: hints.get(key) }) ?? [],
        );
  warnOfIdleHints(hints, new Set([...byKey.keys(), ...unwanted]), warn);
  checkUsable(sites, columns);
  return sealFeatureSpec({ formatVersion: 1, layout, columns, target });
}

/** Columns of all sites by folded name, in natural name order. */
function columnsByKey(
  sites: readonly SiteEntry[],
  unwanted: ReadonlySet<string>,
  hints: ReadonlyMap<string, NamedHint>,
  warn: (warning: string) => void,
): Map<string, SiteColumn[]> {
  const found = new Map<string, SiteColumn[]>();
  for (const site of sites) {
    for (const column of site.statistics.columns) {
      const own = foldName(column.name);
      const key = agreedKey(own, hints);
      if (unwanted.has(key)) continue;
      const entries = found.get(key);
      const twice = entries?.findIndex((entry) => entry.site === site) ?? -1;
      const before = entries?.[twice];
      if (entries !== undefined && before !== undefined) {
        const isUsed = placeOf(column.name, hints.get(key)) < placeOf(before.column.name, hints.get(key));
        if (isUsed) entries[twice] = { site, column };
        const [used, left] = isUsed ? [column, before.column] : [before.column, column];
        warn(
          `site "${site.name}": its column "${left.name}" is not used, as it is another name for its column "${used.name}"`,
        );
        continue;
      }
      if (entries === undefined) found.set(key, [{ site, column }]);
      else entries.push({ site, column });
    }
  }
  if (found.size > MAX_SPEC_COLUMNS) {
    throw new OctomilError(
      'too_large',
      `the sites have ${found.size} columns; at most ${MAX_SPEC_COLUMNS} are allowed`,
    );
  }
  return new Map([...found].sort(([a], [b]) => compareNaturally(a, b)));
}

/** Its own name goes before its aliases, and they in their order: as when rows are read. */
function placeOf(name: string, named: NamedHint | undefined): number {
  return hintedNames(named, name).map(foldName).indexOf(foldName(name));
}

function warnOfIdleHints(
  hints: ReadonlyMap<string, NamedHint>,
  keys: ReadonlySet<string>,
  warn: (warning: string) => void,
): void {
  const names = new Set([...hints.values()].map(({ name }) => name));
  for (const name of names) {
    if (!keys.has(foldName(name))) warn(`the hint for column "${name}" is idle: no site has such a column with values`);
  }
}

interface GridContext {
  /** Of all sites. */
  readonly rows: number;
  readonly hints: ReadonlyMap<string, NamedHint>;
  readonly warn: (warning: string) => void;
}

/**
 * All columns scaled alike: the corner pixels of an image, nearly always black, would otherwise be blown up to noise.
 * No column may drop out, or the shape would change, so constant ones stay.
 */
function mergeGrid(byKey: ReadonlyMap<string, readonly SiteColumn[]>, context: GridContext): FeatureColumn[] {
  const { hints, warn } = context;
  const pictures = [...byKey].find(([, entries]) => holdsImages(entries));
  if (pictures !== undefined) return mergePictures(pictures, byKey, context);
  let moments = NO_MOMENTS;
  const names: Pick<FeatureColumn, 'name' | 'aliases'>[] = [];
  for (const [key, entries] of byKey) {
    const name = nameOf(entries, hints.get(key));
    if (entries.some(({ column }) => column.moments === null)) {
      warn(`column "${name}" is left out: a grid takes numbers alone`);
      continue;
    }
    names.push({ name, ...aliasesOf(name, hints.get(key)) });
    for (const { column } of entries) moments = combineMoments(moments, allMoments(column));
  }
  const { mean, deviation } = moments;
  if (roundConstant(deviation) === 0) return [];
  return names.map((named) => ({
    kind: 'numeric',
    ...named,
    mean: roundConstant(mean),
    deviation: roundConstant(deviation),
    missingMarkers: [],
    missingIndicator: false,
  }));
}

/** Pictures are a grid by themselves. */
function mergePictures(
  [key, pictures]: readonly [key: string, pictures: readonly SiteColumn[]],
  byKey: ReadonlyMap<string, readonly SiteColumn[]>,
  { rows, hints, warn }: GridContext,
): FeatureColumn[] {
  for (const entries of byKey.values()) {
    if (entries === pictures) continue;
    warn(`column "${entries[0]?.column.name ?? ''}" is left out: the model takes pictures alone`);
  }
  const name = nameOf(pictures, hints.get(key));
  const merged = mergeImages(name, pictures, { rows, warn, indicator: false });
  return merged === undefined ? [] : [{ ...merged, ...aliasesOf(name, hints.get(key)) }];
}

function checkUsable(sites: readonly SiteEntry[], columns: readonly FeatureColumn[]): void {
  if (columns.length === 0) {
    throw new OctomilError(
      'data_mismatch',
      'no column of any site can serve as a feature: all are constant, identifiers, free text, dates, or have fewer than 10 values',
    );
  }
  const markers = new Map(
    columns.flatMap(({ name, aliases = [], missingMarkers }) =>
      [name, ...aliases].map((one) => [foldName(one), missingMarkers] as const),
    ),
  );
  for (const site of sites) {
    const usable = site.statistics.columns.some((column) => {
      const found = markers.get(foldName(column.name));
      return found !== undefined && usableRows(column, found) >= MINIMUM_ROWS;
    });
    if (usable) continue;
    const wanted = columns.slice(0, 20).map(({ name }) => name);
    throw mismatch(
      site,
      `it has none of the agreed columns (${wanted.join(', ')}${columns.length > 20 ? ', ...' : ''}) with at least ${MINIMUM_ROWS} values`,
    );
  }
}

const EXCLUSION_TEXTS: Readonly<Record<Exclusion, string>> = {
  identifier: 'it identifies people or rows; if it is wanted all the same, give it a hint with a kind',
  free_text: 'it holds more than 32 different texts; a hint (kind: hashed) takes it in',
  time: 'it holds dates or times; a hint (kind: datetime) derives numbers from it, such as an age',
  unsupported_type: 'its type is neither number, text nor boolean',
};

function warnOfExclusions(
  sites: readonly SiteEntry[],
  used: ReadonlyMap<string, unknown>,
  warn: (warning: string) => void,
): void {
  const told = new Map<string, { name: string; reason: Exclusion; sites: string[] }>();
  for (const { name: site, statistics } of sites) {
    for (const { name, reason } of statistics.excluded) {
      const key = foldName(name);
      const entry = told.get(key) ?? { name, reason, sites: [] };
      entry.sites.push(site);
      told.set(key, entry);
    }
  }
  for (const [key, { name, reason, sites: where }] of told) {
    const kept = used.has(key) ? ', though other sites use it' : '';
    warn(`column "${name}" is left out at ${where.join(', ')}${kept}: ${EXCLUSION_TEXTS[reason]}`);
  }
}
