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
import { type DateFormat, datePattern } from './date-cells.js';
import { quoteNumber, quoteText } from './duckdb-session.js';
import type { ThousandsSeparator } from './source.js';
import type { CellRequest, ColumnFamily } from './table-reader.js';
import { noPictures } from './value-cells.js';

/** A column as the query sees it. */
export interface SqlColumn {
  /** Quoted identifier. */
  readonly sql: string;
  readonly family: ColumnFamily;
}

export interface CellRules {
  readonly decimalSeparator: '.' | ',';
  readonly thousandsSeparator?: ThousandsSeparator | undefined;
  /** Beyond MISSING_TEXTS, compared exactly after trimming. */
  readonly missingTexts: readonly string[];
}

const list = (texts: readonly string[]) => texts.map(quoteText).join(', ');
const trim = (sql: string) => `trim(${sql}, ${quoteText(TRIMMED)})`;
/** As `foldCell`, but `translate` takes 1 µs a cell: for the few cells that `quickFold` does not match. */
const fold = (sql: string) => `translate(${trim(sql)}, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')`;
/** The same for ASCII text without white space around it (`strlen` counts bytes, `length` characters). */
const quickFold = (sql: string) => `CASE WHEN strlen(${sql}) = length(${sql}) THEN lower(${sql}) ELSE ${sql} END`;
const NAN = quoteNumber(Number.NaN);
const INFINITE = quoteNumber(Number.POSITIVE_INFINITY);

/**
 * NULL where the text is no number. The cast trims by itself, but not every space that TRIMMED has.
 *
 * CASE rather than coalesce, here and below: DuckDB takes an expression that occurs twice out of a coalesce and then
 * evaluates it for every row, which makes a cell five times as dear.
 */
function asNumber(sql: string, rules: CellRules): string {
  const cast = (text: string) =>
    `TRY_CAST(${rules.decimalSeparator === ',' ? `replace(${text}, ',', '.')` : text} AS DOUBLE)`;
  const plain = `CASE WHEN ${cast(sql)} IS NOT NULL THEN ${cast(sql)} ELSE ${cast(trim(sql))} END`;
  if (rules.thousandsSeparator === undefined) return plain;
  const { characters, grouped } = thousandsOf(rules.thousandsSeparator, rules.decimalSeparator);
  const joined = cast(`translate(${trim(sql)}, ${quoteText(characters)}, '')`);
  // What has the separator in other places (a date, 1.5 where the point separates) is no number.
  const misplaced = `regexp_matches(${trim(sql)}, ${quoteText(`[${characters}]`)})`;
  return `CASE WHEN regexp_full_match(${trim(sql)}, ${quoteText(grouped)}) THEN ${joined} WHEN ${misplaced} THEN NULL ELSE ${plain} END`;
}

/** The characters that count as the separator, and the pattern of a number with groups of three digits between them. */
function thousandsOf(separator: ThousandsSeparator, decimal: '.' | ','): { characters: string; grouped: string } {
  const characters = separator === ' ' ? ' \u00a0\u202f' : separator === "'" ? "'\u2019" : separator;
  return { characters, grouped: `[+-]?[0-9]{1,3}([${characters}][0-9]{3})+([${decimal}][0-9]*)?([eE][+-]?[0-9]+)?` };
}

/** Not IN: a longer list of those becomes a join, which makes every cell be trimmed. */
const among = (sql: string, texts: readonly string[]) => `list_contains([${list(texts)}], ${sql})`;

/** True where a text cell means "missing"; NULL cells are for the caller. */
function missingTest(sql: string, rules: CellRules, folded: readonly string[] = []): string {
  const exact = among(trim(sql), [...MISSING_TEXTS, ...rules.missingTexts]);
  return folded.length === 0 ? exact : `(${exact} OR ${among(fold(sql), folded)})`;
}

/** The cell as a DOUBLE that is never NULL, by the rules of `CellRequest`: NULL slots of a vector hold stale values. */
export function cellSql(column: SqlColumn, request: CellRequest, rules: CellRules): string {
  const folded = request.as === 'content' || request.as === 'image' ? [] : (request.missingTexts ?? []).map(foldCell);
  switch (request.as) {
    case 'number':
      return numberSql(column, rules, folded);
    case 'boolean':
      return booleanSql(column, rules, folded);
    case 'level':
      return levelSql(column, request.levels, rules, folded);
    case 'date':
      return dateSql(column, request.format, rules, folded);
    case 'digest':
      return digestSql(column, request.seed, rules, folded);
    case 'image':
      throw noPictures(request.column);
    case 'content':
      return contentSql(column, rules);
  }
}

function numberSql({ sql, family }: SqlColumn, rules: CellRules, folded: readonly string[]): string {
  if (family === 'number' || family === 'boolean') return `coalesce(CAST(${sql} AS DOUBLE), ${NAN})`;
  if (family !== 'text') return `CASE WHEN ${sql} IS NULL THEN ${NAN} ELSE ${INFINITE} END`;
  // Markers that spell numbers are left to the caller, which compares numbers; the fast path then is one cast.
  // The tests of text run for the few cells that are no number.
  const number = asNumber(sql, rules);
  return `CASE WHEN ${number} IS NOT NULL THEN ${number} WHEN ${sql} IS NULL OR ${missingTest(sql, rules, folded)} THEN ${NAN} ELSE ${INFINITE} END`;
}

function booleanSql({ sql, family }: SqlColumn, rules: CellRules, folded: readonly string[]): string {
  if (family === 'boolean') return `coalesce(CAST(CAST(${sql} AS INTEGER) AS DOUBLE), ${NAN})`;
  if (family === 'number') {
    const value = `CAST(${sql} AS DOUBLE)`;
    return `CASE WHEN ${value} IS NULL OR isnan(${value}) THEN ${NAN} WHEN ${value} IN (0, 1) THEN ${value} ELSE ${INFINITE} END`;
  }
  if (family !== 'text') return numberSql({ sql, family }, rules, folded);
  const number = asNumber(sql, rules);
  const spelled = (text: string) => ` WHEN ${among(text, TRUE_TEXTS)} THEN 1 WHEN ${among(text, FALSE_TEXTS)} THEN 0`;
  const missing = ` WHEN ${sql} IS NULL OR ${missingTest(sql, rules, folded)} THEN ${NAN}`;
  // A marker may be the text "no", which must then not be read as 0.
  const marked = folded.length === 0 ? '' : missing;
  return `CASE${marked} WHEN ${number} = 1 THEN 1 WHEN ${number} = 0 THEN 0${spelled(quickFold(sql))}${missing}${spelled(fold(sql))} ELSE ${INFINITE} END`;
}

function levelSql(column: SqlColumn, levels: readonly string[], rules: CellRules, folded: readonly string[]): string {
  const { sql, family } = column;
  if (family === 'number') {
    const value = `CAST(${sql} AS DOUBLE)`;
    const cases = levels.flatMap((level, index) => {
      const number = numberOfText(level);
      return number === undefined ? [] : [` WHEN ${value} = ${quoteNumber(number)} THEN ${index}`];
    });
    const marked = folded.flatMap((marker) => {
      const number = numberOfText(marker);
      return number === undefined ? [] : [` OR ${value} = ${quoteNumber(number)}`];
    });
    return `CAST(CASE WHEN ${value} IS NULL OR isnan(${value})${marked.join('')} THEN ${NAN}${cases.join('')} ELSE -1 END AS DOUBLE)`;
  }
  const text = family === 'text' ? sql : `CAST(${sql} AS VARCHAR)`;
  const position = (folded: string) => (levels.length === 0 ? 'NULL' : `list_position([${list(levels)}], ${folded})`);
  const slow = `CASE WHEN ${text} IS NULL OR ${missingTest(text, rules, folded)} THEN ${NAN} ELSE coalesce(${position(fold(text))}, 0) - 1 END`;
  // What means "missing" is no level, even where the levels have it.
  const missing = new Set([...MISSING_TEXTS, ...rules.missingTexts].map(foldCell).concat(folded));
  if (levels.some((level) => missing.has(level))) return `CAST(${slow} AS DOUBLE)`;
  const quick = position(quickFold(text));
  return `CAST(CASE WHEN ${quick} IS NOT NULL THEN ${quick} - 1 ELSE ${slow} END AS DOUBLE)`;
}

function dateSql({ sql, family }: SqlColumn, format: DateFormat, rules: CellRules, folded: readonly string[]): string {
  if (family === 'time') {
    // A time of day or an interval is no date. The cast to text has the years beyond 9999 that a timestamp may have.
    const time = `TRY_CAST(${sql} AS TIMESTAMP)`;
    return `CASE WHEN ${sql} IS NULL THEN ${NAN} WHEN ${time} IS NULL OR NOT isfinite(${time}) THEN ${INFINITE} ELSE CAST(epoch_ms(${time}) AS DOUBLE) END`;
  }
  // Only eight digits together are a date that a column of numbers can hold.
  if (family !== 'text' && !(family === 'number' && format === 'yyyymmdd')) {
    return numberSql({ sql, family: 'unsupported' }, rules, folded);
  }
  const text = family === 'text' ? trim(sql) : wholeText(sql);
  const { pattern, order } = datePattern(format);
  const part = (group: number) => `regexp_extract(${text}, ${quoteText(`^${pattern}$`)}, ${group})`;
  const number = (group: number) => `coalesce(TRY_CAST(${part(group)} AS BIGINT), 0)`;
  const [year, month, day] = order.map((group) => `lpad(${part(group)}, ${group === order[0] ? 4 : 2}, '0')`);
  const date = `TRY_CAST(concat(${year}, '-', ${month}, '-', ${day}) AS DATE)`;
  const sane = `${number(4)} <= 23 AND ${number(5)} <= 59 AND ${number(6)} <= 59 AND abs(${number(8)}) <= 23 AND ${number(9)} <= 59`;
  const zone = `(abs(${number(8)}) * 60 + ${number(9)}) * CASE WHEN starts_with(${part(8)}, '-') THEN -1 ELSE 1 END`;
  const time = `((${number(4)} * 60 + ${number(5)} - ${zone}) * 60 + ${number(6)}) * 1000`;
  const fraction = `TRY_CAST(rpad(substr(${part(7)}, 1, 3), 3, '0') AS BIGINT)`;
  const missing = family === 'text' ? missingTest(sql, rules, folded) : `list_contains([${list(folded)}], ${text})`;
  return `CASE WHEN ${sql} IS NULL${family === 'text' ? '' : ` OR isnan(CAST(${sql} AS DOUBLE))`} OR ${folded.length === 0 && family !== 'text' ? 'false' : missing} THEN ${NAN} WHEN NOT coalesce(regexp_full_match(${text}, ${quoteText(pattern)}), false) OR ${date} IS NULL OR ${date} < DATE '0001-01-01' OR NOT (${sane}) THEN ${INFINITE} ELSE CAST(epoch_ms(CAST(${date} AS TIMESTAMP)) + ${time} + coalesce(${fraction}, 0) AS DOUBLE) END`;
}

/** The digits of a whole number; NULL for others. */
function wholeText(sql: string): string {
  return `CASE WHEN CAST(${sql} AS DOUBLE) = trunc(CAST(${sql} AS DOUBLE)) THEN CAST(TRY_CAST(${sql} AS HUGEINT) AS VARCHAR) END`;
}

function digestSql(column: SqlColumn, seed: string, rules: CellRules, folded: readonly string[]): string {
  const { sql, family } = column;
  const seeded = (text: string) =>
    `CAST(md5_number_lower(concat(${quoteText(`${seed}:`)}, ${text})) % 4503599627370496 AS DOUBLE)`;
  if (family === 'number') {
    const text = wholeText(sql);
    const marked = folded.length === 0 ? '' : ` OR ${among(text, folded)}`;
    return `CASE WHEN ${sql} IS NULL OR isnan(CAST(${sql} AS DOUBLE))${marked} THEN ${NAN} WHEN ${text} IS NULL THEN ${INFINITE} ELSE ${seeded(text)} END`;
  }
  const text = family === 'text' ? sql : `CAST(${sql} AS VARCHAR)`;
  return `CASE WHEN ${text} IS NULL OR ${missingTest(text, rules, folded)} THEN ${NAN} ELSE ${seeded(fold(text))} END`;
}

function contentSql({ sql, family }: SqlColumn, rules: CellRules): string {
  if (family === 'number' || family === 'boolean') return `coalesce(CAST(${sql} AS DOUBLE), ${NAN})`;
  const text = family === 'text' ? sql : `CAST(${sql} AS VARCHAR)`;
  // MD5, since DuckDB's own hash() may change with its version. 52 bits of it are exact in a double.
  const digest = `CAST(md5_number_lower(${text}) % 4503599627370496 AS DOUBLE)`;
  const rest = `CASE WHEN ${sql} IS NULL OR ${missingTest(text, rules)} THEN ${NAN} ELSE ${digest} END`;
  const number = asNumber(text, rules);
  return family === 'text' ? `CASE WHEN ${number} IS NOT NULL THEN ${number} ELSE ${rest} END` : rest;
}

export interface ProfileCell {
  /** True where the cell is missing; false or true, never NULL. */
  readonly missing: string;
  /** NULL where missing, or no number of a sane size. */
  readonly number: string;
}

/** The cell for profiling. `name` is the column in the query, already converted as `SqlColumn.sql`. */
export function profileCell(
  { sql, family }: SqlColumn,
  markers: readonly MissingMarker[],
  rules: CellRules,
): ProfileCell {
  if (family !== 'text' && family !== 'number' && family !== 'boolean') {
    return { missing: `${sql} IS NULL`, number: 'CAST(NULL AS DOUBLE)' };
  }
  const { numbers, texts } = splitMarkers(markers);
  const value = family === 'text' ? asNumber(sql, rules) : `CAST(${sql} AS DOUBLE)`;
  const unusable = [`isnan(${value})`, ...numbers.map((marker) => `${value} = ${quoteNumber(marker)}`)].join(' OR ');
  const noNumber = family === 'text' ? `${sql} IS NULL OR ${missingTest(sql, rules, texts)}` : 'true';
  return {
    missing: `CASE WHEN ${value} IS NOT NULL THEN (${unusable}) ELSE (${noNumber}) END`,
    // Squares of larger numbers overflow; no measurement is that large.
    number: `CASE WHEN abs(${value}) <= 1e100 AND NOT (${unusable}) THEN ${value} END`,
  };
}
