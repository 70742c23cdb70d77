import { foldName, type PlainRequest, splitMarkers } from '@octomil/shared/data';
import { cellOf } from './encode.js';
import type { FeatureColumn, FeatureSpec } from './feature-spec.js';
import { levelFinder } from './level-encoders.js';
import { CLIP_DEVIATIONS, preparation } from './number-encoder.js';

/** Enough to see what is wrong; a request of ten thousand rows is not answered with as many. */
const MAX_WARNINGS = 20;
const MAX_SHOWN_CHARACTERS = 100;
/** What is compared to find near names takes the square of its length, for each of them. */
const MAX_COMPARED_CHARACTERS = 60;
const MAX_COMPARED_NAMES = 1_000;

/** The names most like one, best first. */
export type NearNames = (name: string, known: readonly string[]) => readonly string[];

/**
 * What of rows that `encodeRows` takes is probably not meant: names that no column has, values that are no level, numbers
 * beyond what the model tells apart. Each is said once, with how many rows have it.
 */
export function rowWarnings(
  spec: FeatureSpec,
  rows: readonly Readonly<Record<string, unknown>>[],
  near: NearNames,
): string[] {
  const names = spec.columns.flatMap(namesOf);
  const known = new Set(names.map(foldName));
  const columns = spec.columns.map((column) => ({
    name: column.name,
    keys: [column.name, ...(column.aliases ?? [])].map(foldName),
    doubt: doubtOf(column, near),
  }));
  const found = new Map<string, { readonly warning: string; readonly first: number; count: number }>();
  const note = (key: string, index: number, warning: () => string): void => {
    const before = found.get(key);
    if (before !== undefined) before.count += 1;
    else if (found.size <= MAX_WARNINGS) found.set(key, { warning: warning(), first: index, count: 1 });
  };
  rows.forEach((row, index) => {
    const values = new Map<string, unknown>();
    for (const [name, value] of Object.entries(row)) {
      const key = foldName(name);
      values.set(key, value);
      if (!known.has(key)) note(`name ${key}`, index, () => unknownName(name, names, spec, near));
    }
    for (const { name, keys, doubt } of columns) {
      const key = keys.find((one) => values.has(one));
      const warning = key === undefined ? undefined : doubt?.(values.get(key), index);
      if (warning !== undefined) note(`value ${name} ${String(values.get(key ?? ''))}`, index, warning);
    }
  });
  const all = [...found.values()].map(({ warning, first, count }) =>
    count === 1 ? `row ${first}: ${warning}` : `row ${first} and ${count - 1} more: ${warning}`,
  );
  return all.length > MAX_WARNINGS ? [...all.slice(0, MAX_WARNINGS), 'there is more of this kind'] : all;
}

function namesOf(column: FeatureColumn): string[] {
  const from = column.kind === 'datetime' && typeof column.from === 'object' ? [column.from.column] : [];
  return [column.name, ...(column.aliases ?? []), ...from];
}

function unknownName(name: string, names: readonly string[], { target }: FeatureSpec, near: NearNames): string {
  if (foldName(name) === foldName(target.rule.column))
    return `"${cut(name)}" is what the model predicts; it is not read`;
  return `the model has no column "${cut(name)}", so it is not read${meant(name, names, near)}`;
}

function meant(name: string, known: readonly string[], near: NearNames): string {
  if (name.length > MAX_COMPARED_CHARACTERS) return '';
  const like = near(name, known.slice(0, MAX_COMPARED_NAMES));
  return like.length === 0 ? '' : `; did you mean ${like.map((one) => `"${cut(one)}"`).join(' or ')}?`;
}

function cut(text: string): string {
  return text.length > MAX_SHOWN_CHARACTERS ? `${text.slice(0, MAX_SHOWN_CHARACTERS).toWellFormed()}…` : text;
}

/** What to say of a column's value, if anything; undefined for kinds of which there is nothing to say. */
function doubtOf(
  column: FeatureColumn,
  near: NearNames,
): ((value: unknown, row: number) => (() => string) | undefined) | undefined {
  const { name } = column;
  if (column.kind === 'categorical' || column.kind === 'ordinal') {
    const { cell, placeOf } = levelFinder(column);
    const taken = column.kind === 'ordinal' ? 'a missing one' : 'any other value';
    return (value, row) => {
      if (cell.as === 'image' || placeOf(cellOf(value, cell, name, row)) !== -1) return undefined;
      const text = String(value);
      return () =>
        `"${cut(text)}" in "${name}" is no value that the model learned; it counts as ${taken}${meant(text, column.levels, near)}`;
    };
  }
  if (column.kind !== 'numeric') return undefined;
  const { mean, deviation, clip } = column;
  const [least, most] = clip ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  const { numbers, texts } = splitMarkers(column.missingMarkers);
  const cell: PlainRequest = { column: foldName(name), as: 'number', missingTexts: texts };
  const prepare = preparation(column, undefined);
  return (value, row) => {
    const number = cellOf(value, cell, name, row);
    if (!Number.isFinite(number) || numbers.includes(number)) return undefined;
    if (number < least || number > most) {
      return () => `${number} in "${name}" is not within ${least} to ${most}; the nearest of these is taken for it`;
    }
    const scaled = ((prepare?.(number) ?? number) - mean) / deviation;
    if (Math.abs(scaled) <= CLIP_DEVIATIONS) return undefined;
    return () =>
      `${number} in "${name}" is more than ${CLIP_DEVIATIONS} standard deviations from what the model learned from, and counts as so many; is it in ${column.unit ?? 'the unit of the training'}?`;
  };
}
