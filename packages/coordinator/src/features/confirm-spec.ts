import { foldName } from '@octomil/shared/data';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import {
  type FeatureColumn,
  type FeatureSpec,
  foldUnit,
  type NumericColumn,
  parseFeatureSpec,
  type SiteEntry,
  sealFeatureSpec,
} from '@octomil/shared/features';
import { contradictionOf, ToldColumns } from './contradiction.js';

/** Makes the column of a name as the sites' statistics give it with these hints; `undefined` where it cannot serve. */
export type MakeColumn = (name: string, hints: Readonly<Record<string, unknown>>) => FeatureColumn | undefined;

/** What a person may say of a column when its kind changes; the rest follows from what the sites told. */
const HINTED = ['kind', 'levels', 'buckets', 'derive', 'aliases', 'unit', 'units'] as const;

/**
 * The spec that a person made of a proposed one: columns dropped, their kinds, levels, aliases and constants changed. A
 * column whose kind was changed may leave out what follows from the sites' statistics.
 *
 * @throws `invalid_input` naming column and field where it is no spec, where it changes the target or layout, has a column
 * that no site described, or one that the statistics contradict
 */
export function confirmedSpec(
  edited: unknown,
  proposed: FeatureSpec,
  sites: readonly SiteEntry[],
  make: MakeColumn,
): FeatureSpec {
  if (!isObject(edited) || !Array.isArray(edited['columns'])) {
    throw new OctomilError('invalid_input', 'the edited spec must be an object with columns, as the proposal has it', {
      details: { field: 'spec.columns' },
    });
  }
  requireUntouched(edited, proposed);
  const before = new Map(proposed.columns.map((column) => [foldName(column.name), column]));
  const known = knownNames(sites);
  const columns = edited['columns'].map((column: unknown, place) => completed(column, place, before, known, make));
  if (columns.length === 0) {
    throw new OctomilError('invalid_input', 'the edited spec has no columns left; a model needs at least one', {
      details: { field: 'spec.columns' },
    });
  }
  const spec = sealed({ ...proposed, columns: columns as FeatureColumn[] });
  const told = new ToldColumns(sites);
  for (const column of spec.columns) {
    const same = before.get(foldName(column.name));
    if (same !== undefined && canonical(same) === canonical(column)) continue;
    const problem = contradictionOf(column, told.of(column));
    if (problem !== undefined) throw refusal(column.name, problem);
  }
  return spec;
}

function completed(
  column: unknown,
  place: number,
  before: ReadonlyMap<string, FeatureColumn>,
  known: ReadonlySet<string>,
  make: MakeColumn,
): unknown {
  if (!isObject(column) || typeof column['name'] !== 'string' || column['name'] === '') {
    throw new OctomilError('invalid_input', `column ${place + 1} of the edited spec has no name`, {
      details: { field: `spec.columns.${place}.name` },
    });
  }
  const { name } = column;
  const aliases = Array.isArray(column['aliases'])
    ? column['aliases'].filter((alias) => typeof alias === 'string')
    : [];
  // A new name for what sites have under the old one.
  const [proposed] = [name, ...aliases].flatMap((key) => before.get(foldName(key)) ?? []);
  if (proposed === undefined && ![name, ...aliases].some((key) => known.has(foldName(key)))) {
    throw refusal(name, 'is in no data that a site described; check its name, or give it an alias');
  }
  if (proposed !== undefined && proposed.kind === column['kind']) return withReference(column, proposed, name);
  const hints = Object.fromEntries(
    HINTED.flatMap((field) => (column[field] === undefined ? [] : [[field, column[field]]])),
  );
  const made = attempt(name, () => make(name, hints));
  if (made === undefined || made.kind !== column['kind']) {
    throw refusal(
      name,
      `cannot be ${String(column['kind']).slice(0, 40)} by what the sites told; look at it in the proposal, or propose again with a hint for it`,
    );
  }
  // What the person wrote goes before what follows from the statistics, as far as the kind has such a field.
  const own = Object.fromEntries(Object.entries(column).filter(([field]) => field in made && !FIXED.has(field)));
  return { ...made, ...own };
}

/** The name may be a new one, which `made` has; the reference was told of the old kind and its levels. */
const FIXED: ReadonlySet<string> = new Set(['name', 'reference']);

/**
 * A column of the same kind. Where its levels were changed, their shares are told in the new order; a level that the
 * proposal had not is among the others there, so nothing is known of its share.
 *
 * @throws `invalid_input` for another unit or scale with the constants of the old one
 */
function withReference(column: Readonly<Record<string, unknown>>, proposed: FeatureColumn, name: string): unknown {
  if (proposed.kind === 'numeric') refuseOldConstants(column, proposed, name);
  const { levels } = column;
  const shares = proposed.reference?.levelRatios;
  if (!('levels' in proposed) || shares === undefined || !Array.isArray(levels)) return column;
  if (canonical(levels) === canonical(proposed.levels)) return column;
  const known = new Map(proposed.levels.map((level, place) => [level, shares[place] ?? 0]));
  const levelRatios = levels.map((level) => known.get(level) ?? 0);
  const others = Math.max(0, 1 - levelRatios.reduce((sum, ratio) => sum + ratio, 0));
  return { ...column, reference: { ...proposed.reference, levelRatios: [...levelRatios, Number(others.toFixed(3))] } };
}

function refuseOldConstants(column: Readonly<Record<string, unknown>>, proposed: NumericColumn, name: string): void {
  const { unit, scale, mean, deviation } = column;
  if (mean !== proposed.mean || deviation !== proposed.deviation) return;
  // Where nobody has named a unit, a first one is a name and no other measure.
  const hasOtherUnit =
    proposed.unit !== undefined && typeof unit === 'string' && foldUnit(unit) !== foldUnit(proposed.unit);
  if (!hasOtherUnit && scale === proposed.scale) return;
  const what = hasOtherUnit ? `its unit to ${unit.slice(0, 40)}` : 'its scale';
  throw refusal(
    name,
    `changes ${what}, but keeps the mean and deviation of before; change them with it, or propose again with a hint, which measures them`,
  );
}

/** Of all columns that a site has, whether it told of them or left them out. */
function knownNames(sites: readonly SiteEntry[]): Set<string> {
  return new Set(
    sites.flatMap(({ statistics: { columns, excluded } }) =>
      [...columns, ...excluded].map(({ name }) => foldName(name)),
    ),
  );
}

function requireUntouched(edited: Readonly<Record<string, unknown>>, proposed: FeatureSpec): void {
  for (const field of ['target', 'layout'] as const) {
    if (edited[field] === undefined || canonical(edited[field]) === canonical(proposed[field])) continue;
    throw new OctomilError(
      'invalid_input',
      `the edited spec changes the ${field}, which the sites described; propose again for another ${field}`,
      { details: { field: `spec.${field}` } },
    );
  }
}

/** @throws `invalid_input` with the column's name in place of its number */
function sealed(content: FeatureSpec): FeatureSpec {
  try {
    return parseFeatureSpec(JSON.parse(JSON.stringify(sealFeatureSpec(content))));
  } catch (thrown) {
    const error = toOctomilError(thrown);
    if (error.code !== 'invalid_input') throw error;
    const place = /\/columns\/(\d+)/.exec(error.reason)?.[1];
    const column = place === undefined ? undefined : content.columns[Number(place)];
    if (column === undefined) throw error;
    throw refusal(column.name, `is not right as ${String(column.kind).slice(0, 40)}: ${error.reason}`);
  }
}

function attempt<T>(name: string, make: () => T): T {
  try {
    return make();
  } catch (thrown) {
    const error = toOctomilError(thrown);
    throw error.code === 'internal' ? error : refusal(name, `is refused: ${error.reason}`);
  }
}

function refusal(name: string, problem: string): OctomilError {
  return new OctomilError('invalid_input', `column "${name}" ${problem}`, {
    details: { field: 'spec.columns', column: name },
  });
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Members in one order, so that an editor that sorts them changes nothing. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (!isObject(value)) return JSON.stringify(value) ?? 'null';
  const members = Object.entries(value).filter(([, inner]) => inner !== undefined);
  return `{${members
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, inner]) => `${JSON.stringify(name)}:${canonical(inner)}`)
    .join(',')}}`;
}
