import { trimCell } from './cells.js';

/** How text spells a date; `iso` is year-month-day. A time may follow, and a zone after it. */
export const DATE_FORMATS = ['iso', 'dd.mm.yyyy', 'dd/mm/yyyy', 'mm/dd/yyyy', 'yyyy/mm/dd', 'yyyymmdd'] as const;
export type DateFormat = (typeof DATE_FORMATS)[number];

export interface DatePattern {
  /** Groups: the three parts of the date; hour, minute, second, fraction; signed hours and minutes of the zone. DuckDB allows 9. */
  readonly pattern: string;
  /** Places of year, month and day among the groups. */
  readonly order: readonly [number, number, number];
}

const TIME = '(?:[Tt ]([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.]([0-9]{1,9}))?)?)?';
const ZONE = ' ?(?:[Zz]|([+-][0-9]{2}):?([0-9]{2})?)?';
const DAY = '([0-9]{1,2})';
const YEAR = '([0-9]{4})';
const DATES: Readonly<Record<DateFormat, DatePattern>> = {
  iso: { pattern: `${YEAR}-${DAY}-${DAY}`, order: [1, 2, 3] },
  'dd.mm.yyyy': { pattern: `${DAY}[.]${DAY}[.]${YEAR}`, order: [3, 2, 1] },
  'dd/mm/yyyy': { pattern: `${DAY}/${DAY}/${YEAR}`, order: [3, 2, 1] },
  'mm/dd/yyyy': { pattern: `${DAY}/${DAY}/${YEAR}`, order: [3, 1, 2] },
  'yyyy/mm/dd': { pattern: `${YEAR}/${DAY}/${DAY}`, order: [1, 2, 3] },
  yyyymmdd: { pattern: `${YEAR}([0-9]{2})([0-9]{2})`, order: [1, 2, 3] },
};

/** The same pattern in JavaScript and in DuckDB (RE2), so that both take the same texts for dates. */
export function datePattern(format: DateFormat): DatePattern {
  const { pattern, order } = DATES[format];
  return { pattern: pattern + TIME + ZONE, order };
}

const compiled = new Map<DateFormat, RegExp>();

/** Milliseconds since 1970 in UTC; undefined where the text is no date of the format. What is finer is cut off. */
export function dateOfText(text: string, format: DateFormat): number | undefined {
  const { pattern, order } = datePattern(format);
  let regExp = compiled.get(format);
  if (regExp === undefined) {
    regExp = new RegExp(`^${pattern}$`);
    compiled.set(format, regExp);
  }
  const found = regExp.exec(trimCell(text));
  if (found === null) return undefined;
  const number = (group: number) => Number(found[group] ?? 0);
  const [year, month, day] = [number(order[0]), number(order[1]), number(order[2])];
  const [hour, minute, second] = [number(4), number(5), number(6)];
  const [zoneHours, zoneMinutes] = [Math.abs(number(8)), number(9)];
  if (year < 1 || hour > 23 || minute > 59 || second > 59 || zoneHours > 23 || zoneMinutes > 59) return undefined;
  const date = new Date(0);
  // Date.UTC takes the years below 100 for those of the 20th century.
  date.setUTCFullYear(year, month - 1, day);
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return undefined;
  const fraction = Number((found[7] ?? '').padEnd(3, '0').slice(0, 3));
  const zone = (zoneHours * 60 + zoneMinutes) * (found[8]?.startsWith('-') === true ? -1 : 1);
  return date.getTime() + ((hour * 60 + minute - zone) * 60 + second) * 1_000 + fraction;
}
