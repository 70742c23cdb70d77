import { foldName } from '@octomil/shared/data';
import type { UnitConversion } from './feature-spec.js';

interface KnownConversion extends UnitConversion {
  readonly from: string;
  readonly to: string;
  /** Of which column names it holds: an amount of substance weighs by what it is of. Default: of all. */
  readonly analyte?: RegExp;
}

/**
 * Conversions between units that a hint or a site names; never guessed from values.
 *
 * Inch and pound by their definitions (international yard and pound, 1959); molar masses of glucose (180.156 g/mol) and
 * cholesterol (386.65 g/mol).
 */
const KNOWN: readonly KnownConversion[] = [
  { from: 'f', to: 'c', factor: 5 / 9, offset: -160 / 9 },
  { from: 'lb', to: 'kg', factor: 0.45359237, offset: 0 },
  { from: 'g', to: 'kg', factor: 0.001, offset: 0 },
  { from: 'in', to: 'cm', factor: 2.54, offset: 0 },
  { from: 'm', to: 'cm', factor: 100, offset: 0 },
  { from: 'mg/dl', to: 'mmol/l', factor: 10 / 180.156, offset: 0, analyte: /gluc|glyc(?!at)|sugar/ },
  { from: 'mg/dl', to: 'mmol/l', factor: 10 / 386.65, offset: 0, analyte: /chol|(^|_)[hl]dl(_|$)/ },
];

const SYNONYMS = new Map(
  Object.entries({
    celsius: 'c',
    fahrenheit: 'f',
    lbs: 'lb',
    pound: 'lb',
    pounds: 'lb',
    inch: 'in',
    inches: 'in',
  }),
);

/** Two spellings of a unit are the same when these are: `mg/dL` and `mg / dl`, `°F` and `deg F`. */
export function foldUnit(unit: string): string {
  const folded = unit
    .normalize('NFKC')
    .toLowerCase()
    .replace(/[\s°]+|^deg(rees?)?/gu, '');
  return SYNONYMS.get(folded) ?? folded;
}

/** What brings `from` to `to`; undefined where no conversion is known. */
export function conversionBetween(
  from: string,
  to: string,
  names: readonly string[],
  units: Readonly<Record<string, UnitConversion>> = {},
): UnitConversion | undefined {
  const [wanted, goal] = [foldUnit(from), foldUnit(to)];
  if (wanted === goal) return { factor: 1, offset: 0 };
  const given = Object.entries(units).find(([unit]) => foldUnit(unit) === wanted);
  return given?.[1] ?? Object.entries(knownUnits(to, names)).find(([unit]) => unit === wanted)?.[1];
}

/** Units that are known to convert to this one, for a column of these names. */
export function knownUnits(unit: string, names: readonly string[]): Record<string, UnitConversion> {
  const goal = foldUnit(unit);
  const keys = names.map(foldName);
  const conversions: Record<string, UnitConversion> = {};
  for (const { from, to, factor, offset, analyte } of KNOWN) {
    if (analyte !== undefined && !keys.some((key) => analyte.test(key))) continue;
    if (to === goal) conversions[from] ??= { factor, offset };
    else if (from === goal) conversions[to] ??= { factor: 1 / factor, offset: -offset / factor };
  }
  return conversions;
}
