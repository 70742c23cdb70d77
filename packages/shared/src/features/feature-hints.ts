import { DATE_FORMATS, type DateFormat, foldName, type MissingMarker } from '@octomil/shared/data';
import { Type } from 'typebox';
import {
  DATE_CYCLES,
  DATE_SPANS,
  type DateCycle,
  type DateSpan,
  type FeatureColumn,
  type UnitConversion,
} from './feature-spec.js';

export const FEATURE_KINDS = [
  'numeric',
  'boolean',
  'categorical',
  'ordinal',
  'datetime',
  'hashed',
  'image',
] as const satisfies readonly FeatureColumn['kind'][];

/** A factor alone has the offset 0. */
export type HintedConversion = number | { readonly factor: number; readonly offset?: number };

/** What a data scientist wishes for one column; all else follows from the sites' statistics. */
export interface FeatureHint {
  /** Also takes in a column that is left out by default: an identifier, free text, a date. */
  readonly kind?: FeatureColumn['kind'];
  /** Other names that sites have for it. */
  readonly aliases?: readonly string[];
  /** The unit to encode in. */
  readonly unit?: string;
  /** Units that sites may have, converted to `unit`. */
  readonly units?: Readonly<Record<string, HintedConversion>>;
  /** Plausible values, in `unit`. */
  readonly range?: readonly [number, number];
  /** Ordinal: in their order. Categorical: the vocabulary. */
  readonly levels?: readonly (string | number)[];
  /** Hashed. Default 32. */
  readonly buckets?: number;
  /** Datetime. Default years (with a reference) and month. */
  readonly derive?: readonly (DateSpan | DateCycle)[];
  /** Datetime: what years and days are counted from, an ISO date or another column of dates. */
  readonly reference?: string | { readonly column: string };
  /** Datetime: how text spells it. Default `iso`. */
  readonly format?: DateFormat;
  /** Numeric: hold values within these. */
  readonly clip?: readonly [number, number];
  /** Numeric: take the logarithm first, for heavy tails. */
  readonly scale?: 'log1p';
  /** Leave the column out. */
  readonly exclude?: boolean;
}

/** By column, in any spelling that folds to its name. */
export type FeatureHints = Readonly<Record<string, FeatureHint>>;

const closed = { additionalProperties: false };
const Text = Type.String({ minLength: 1, maxLength: 1_000 });
const literals = (values: readonly string[]) => Type.Union(values.map((value) => Type.Literal(value)));
const Range = Type.Tuple([Type.Number(), Type.Number()]);

export const FeatureHintSchema = Type.Object(
  {
    kind: Type.Optional(literals(FEATURE_KINDS)),
    aliases: Type.Optional(Type.Array(Text, { maxItems: 100 })),
    unit: Type.Optional(Text),
    units: Type.Optional(
      Type.Record(
        Type.String(),
        Type.Union([
          Type.Number(),
          Type.Object({ factor: Type.Number(), offset: Type.Optional(Type.Number()) }, closed),
        ]),
      ),
    ),
    range: Type.Optional(Range),
    levels: Type.Optional(Type.Array(Type.Union([Text, Type.Number()]), { minItems: 1, maxItems: 1_000 })),
    buckets: Type.Optional(Type.Integer({ minimum: 2, maximum: 65_536 })),
    derive: Type.Optional(Type.Array(literals([...DATE_SPANS, ...DATE_CYCLES]), { minItems: 1, maxItems: 5 })),
    reference: Type.Optional(Type.Union([Text, Type.Object({ column: Text }, closed)])),
    format: Type.Optional(literals(DATE_FORMATS)),
    clip: Type.Optional(Range),
    scale: Type.Optional(Type.Literal('log1p')),
    exclude: Type.Optional(Type.Boolean()),
  },
  closed,
);

export interface NamedHint {
  /** As the data scientist spells the column. */
  readonly name: string;
  readonly hint: FeatureHint;
}

/** Hints by folded column name; a name goes before another column's alias. */
export function hintsByKey(hints: FeatureHints | undefined): Map<string, NamedHint> {
  const byKey = new Map<string, NamedHint>();
  const all = Object.entries(hints ?? {});
  for (const [name, hint] of all) byKey.set(foldName(name), { name, hint });
  for (const [name, hint] of all) {
    for (const alias of hint.aliases ?? []) {
      const key = foldName(alias);
      if (!byKey.has(key)) byKey.set(key, { name, hint });
    }
  }
  return byKey;
}

/** The folded name under which the federation has a column that is called so somewhere. */
export function agreedKey(name: string, hints: ReadonlyMap<string, NamedHint>): string {
  const key = foldName(name);
  return foldName(hints.get(key)?.name ?? key);
}

/** What is declared as missing, by agreed key: what holds for a column holds for it under each of its names. */
export function markersByKey(
  declared: Readonly<Record<string, readonly MissingMarker[]>> | undefined,
  hints: ReadonlyMap<string, NamedHint>,
): Map<string, readonly MissingMarker[]> {
  const byKey = new Map<string, readonly MissingMarker[]>();
  for (const [name, markers] of Object.entries(declared ?? {})) {
    const key = agreedKey(name, hints);
    byKey.set(key, [...new Set([...(byKey.get(key) ?? []), ...markers])]);
  }
  return byKey;
}

/** What a date becomes: as hinted, or its distance from the reference and its month. */
export function datePartsOf({ derive, reference }: FeatureHint): readonly (DateSpan | DateCycle)[] {
  return derive ?? (reference === undefined ? ['month', 'weekday'] : ['years', 'month']);
}

/** The conversions of a hint, with their offsets. */
export function hintedUnits({ units = {} }: FeatureHint): Record<string, UnitConversion> {
  return Object.fromEntries(
    Object.entries(units).map(([unit, one]) => [
      unit,
      typeof one === 'number' ? { factor: one, offset: 0 } : { factor: one.factor, offset: one.offset ?? 0 },
    ]),
  );
}

/** Names by which a column is known, from what the data scientist calls it. */
export function hintedNames(named: NamedHint | undefined, name: string): string[] {
  return [...new Set([...(named === undefined ? [] : [named.name, ...(named.hint.aliases ?? [])]), name])];
}
