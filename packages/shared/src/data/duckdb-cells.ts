import {
  FALSE_TEXTS,
  foldCell,
  MISSING_TEXTS,
  type MissingMarker,
  numberOfText,
  splitMarkers,
  TRIMMED,
  TRUE_TEXTS,
} from './cells.js';
import { quoteNumber, quoteText } from './duckdb-session.js';
import type { CellRequest, ColumnFamily } from './table-reader.js';

/** A column as the query sees it. */
export interface SqlColumn {
  /** Quoted identifier. */
  readonly sql: string;
  readonly family: ColumnFamily;
}

export interface CellRules {
  readonly decimalSeparator: '.' | ',';
  /** Beyond MISSING_TEXTS, compared exactly after trimming. */
  readonly missingTexts: readonly string[];
}

const list = (texts: readonly string[]) => texts.map(quoteText).join(', ');
const trim = (sql: string) => `trim(${sql}, ${quoteText(TRIMMED)})`;
/** Only ASCII letters, as `foldCell` does. */
const fold = (sql: string) => `translate(${trim(sql)}, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')`;
const NAN = quoteNumber(Number.NaN);
const INFINITE = quoteNumber(Number.POSITIVE_INFINITY);

const asNumber = (sql: string, rules: CellRules) =>
  `TRY_CAST(${rules.decimalSeparator === ',' ? `replace(${sql}, ',', '.')` : sql} AS DOUBLE)`;

/** True where a text cell means "missing"; NULL cells are for the caller. */
function missingTest(sql: string, rules: CellRules, folded: readonly string[] = []): string {
  const exact = `${trim(sql)} IN (${list([...MISSING_TEXTS, ...rules.missingTexts])})`;
  return folded.length === 0 ? exact : `(${exact} OR ${fold(sql)} IN (${list(folded)}))`;
}

/** The cell as a DOUBLE that is never NULL, by the rules of `CellRequest`: NULL slots of a vector hold stale values. */
export function cellSql(column: SqlColumn, request: CellRequest, rules: CellRules): string {
  const folded = request.as === 'content' ? [] : (request.missingTexts ?? []).map(foldCell);
  switch (request.as) {
    case 'number':
      return numberSql(column, rules, folded);
    case 'boolean':
      return booleanSql(column, rules, folded);
    case 'level':
      return levelSql(column, request.levels, rules, folded);
    case 'content':
      return contentSql(column, rules);
  }
}

function numberSql({ sql, family }: SqlColumn, rules: CellRules, folded: readonly string[]): string {
  if (family === 'number' || family === 'boolean') return `coalesce(CAST(${sql} AS DOUBLE), ${NAN})`;
  if (family !== 'text') return `CASE WHEN ${sql} IS NULL THEN ${NAN} ELSE ${INFINITE} END`;
  // Markers that spell numbers are left to the caller, which compares numbers; the fast path then is one cast.
  // The tests of text run for the few cells that are no number.
  return `coalesce(${asNumber(sql, rules)}, CASE WHEN ${sql} IS NULL OR ${missingTest(sql, rules, folded)} THEN ${NAN} ELSE ${INFINITE} END)`;
}

function booleanSql({ sql, family }: SqlColumn, rules: CellRules, folded: readonly string[]): string {
  if (family === 'boolean') return `coalesce(CAST(CAST(${sql} AS INTEGER) AS DOUBLE), ${NAN})`;
  if (family === 'number') {
    const value = `CAST(${sql} AS DOUBLE)`;
    return `CASE WHEN ${value} IS NULL OR isnan(${value}) THEN ${NAN} WHEN ${value} IN (0, 1) THEN ${value} ELSE ${INFINITE} END`;
  }
  if (family !== 'text') return numberSql({ sql, family }, rules, folded);
  const number = asNumber(sql, rules);
  return (
    `CASE WHEN ${sql} IS NULL OR ${missingTest(sql, rules, folded)} THEN ${NAN}` +
    ` WHEN ${fold(sql)} IN (${list(TRUE_TEXTS)}) OR ${number} = 1 THEN 1` +
    ` WHEN ${fold(sql)} IN (${list(FALSE_TEXTS)}) OR ${number} = 0 THEN 0 ELSE ${INFINITE} END`
  );
}

function levelSql(column: SqlColumn, levels: readonly string[], rules: CellRules, folded: readonly string[]): string {
  const { sql, family } = column;
  if (family === 'number') {
    const value = `CAST(${sql} AS DOUBLE)`;
    const cases = levels.flatMap((level, index) => {
      const number = numberOfText(level);
      return number === undefined ? [] : [` WHEN ${value} = ${quoteNumber(number)} THEN ${index}`];
    });
    return `CAST(CASE WHEN ${value} IS NULL OR isnan(${value}) THEN ${NAN}${cases.join('')} ELSE -1 END AS DOUBLE)`;
  }
  const text = family === 'text' ? sql : `CAST(${sql} AS VARCHAR)`;
  const position = levels.length === 0 ? '-1' : `coalesce(list_position([${list(levels)}], ${fold(text)}), 0) - 1`;
  return `CAST(CASE WHEN ${sql} IS NULL OR ${missingTest(text, rules, folded)} THEN ${NAN} ELSE ${position} END AS DOUBLE)`;
}

function contentSql({ sql, family }: SqlColumn, rules: CellRules): string {
  if (family === 'number' || family === 'boolean') return `coalesce(CAST(${sql} AS DOUBLE), ${NAN})`;
  const text = family === 'text' ? sql : `CAST(${sql} AS VARCHAR)`;
  // MD5, since DuckDB's own hash() may change with its version. 52 bits of it are exact in a double.
  const digest = `CAST(md5_number_lower(${trim(text)}) % 4503599627370496 AS DOUBLE)`;
  return (
    `CASE WHEN ${sql} IS NULL OR ${missingTest(text, rules)} THEN ${NAN}` +
    ` ELSE coalesce(${asNumber(text, rules)}, ${digest}) END`
  );
}

/** The cell for profiling: `text` is NULL where missing; `number` also where it is no number of a sane size. */
export function profileSql(
  column: SqlColumn,
  markers: readonly MissingMarker[],
  rules: CellRules,
): { text: string; number: string } {
  const { sql, family } = column;
  const { numbers, texts } = splitMarkers(markers);
  const isMarker = (value: string) =>
    numbers.length === 0 ? 'false' : `${value} IN (${numbers.map(quoteNumber).join(', ')})`;
  const value = family === 'text' ? asNumber(sql, rules) : `CAST(${sql} AS DOUBLE)`;
  if (family === 'number' || family === 'boolean') {
    const present = `CASE WHEN isnan(${value}) OR ${isMarker(value)} THEN NULL ELSE ${value} END`;
    return { text: present, number: sane(present) };
  }
  if (family !== 'text') return { text: `CAST(${sql} AS VARCHAR)`, number: 'CAST(NULL AS DOUBLE)' };
  const present = `CASE WHEN ${missingTest(sql, rules, texts)} OR coalesce(${isMarker(value)}, false) THEN NULL ELSE ${fold(sql)} END`;
  return { text: present, number: sane(asNumber(present, rules)) };
}

/** Squares of larger numbers overflow; no measurement is that large. */
const sane = (number: string) => `CASE WHEN abs(${number}) <= 1e100 THEN ${number} END`;
