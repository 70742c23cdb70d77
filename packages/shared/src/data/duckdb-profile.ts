import type { DuckDBConnection, DuckDBMapValue, DuckDBValue } from '@duckdb/node-api';
import { foldCell } from './cells.js';
import { type CellRules, profileCell, type SqlColumn } from './duckdb-cells.js';
import type { ColumnProfile, LevelCount, ProfileRequest, TableColumn } from './table-reader.js';

/** One query holds this many columns; a table of ten thousand is read a few times. */
const COLUMNS_PER_QUERY = 100;

/** Estimates count spellings and are a few percent off: up to this factor above `maxLevels`, values are counted. */
const ESTIMATE_MARGIN = 4;

export interface ProfiledColumn {
  readonly column: TableColumn;
  readonly sql: SqlColumn;
}

interface Shape {
  readonly present: number;
  readonly numbers: number;
  readonly hasCodes: boolean;
  readonly whole: boolean;
  readonly distinctEstimate: number;
  readonly span: number;
}

/** Profiles columns with two queries per hundred of them: what the values are, then sums and counts that fit. */
export async function profileColumns(
  connection: DuckDBConnection,
  table: string,
  columns: readonly ProfiledColumn[],
  request: ProfileRequest,
  rules: CellRules,
): Promise<ColumnProfile[]> {
  const profiles: ColumnProfile[] = [];
  for (let from = 0; from < columns.length; from += COLUMNS_PER_QUERY) {
    const batch = columns.slice(from, from + COLUMNS_PER_QUERY);
    const cells = batch.map(({ column, sql }) => profileCell(sql, request.missingMarkers.get(column.key) ?? [], rules));
    const typed = `(SELECT ${batch.map(({ sql }, i) => `${sql.sql} AS c${i}, ${cells[i]?.missing} AS m${i}, ${cells[i]?.number} AS d${i}`).join(', ')} FROM ${table})`;
    const shapes = await measureShapes(connection, typed, batch);
    profiles.push(...(await measureValues(connection, typed, batch, shapes, request.maxLevels)));
  }
  return profiles;
}

async function measureShapes(
  connection: DuckDBConnection,
  typed: string,
  batch: readonly ProfiledColumn[],
): Promise<Shape[]> {
  const selected = batch.map(({ sql }, i) =>
    [
      `count_if(NOT m${i})`,
      `count(d${i})`,
      sql.family === 'text' ? `coalesce(bool_or(regexp_matches(c${i}, '^[ \\t]*0[0-9]')), false)` : 'false',
      `coalesce(bool_and(d${i} = trunc(d${i})), false)`,
      sql.family === 'unsupported' ? '0' : `approx_count_distinct(c${i})`,
      `coalesce(max(d${i}) - min(d${i}), 0)`,
    ].join(', '),
  );
  const row = await readRow(connection, `SELECT ${selected.join(', ')} FROM ${typed}`);
  return batch.map((_, i) => {
    const [present, numbers, hasCodes, whole, distinct, span] = row.slice(i * 6, i * 6 + 6);
    return {
      present: Number(present),
      numbers: Number(numbers),
      hasCodes: hasCodes === true,
      whole: whole === true,
      distinctEstimate: Number(distinct),
      span: Number(span),
    };
  });
}

async function measureValues(
  connection: DuckDBConnection,
  typed: string,
  batch: readonly ProfiledColumn[],
  shapes: readonly Shape[],
  maxLevels: number,
): Promise<ColumnProfile[]> {
  const selected: string[] = [];
  const shapeOf = (i: number) => shapes[i] ?? EMPTY;
  batch.forEach(({ sql }, i) => {
    const shape = shapeOf(i);
    const d = `d${i}`;
    if (isNumeric(shape)) {
      selected.push(
        `avg(${d})`,
        `stddev_pop(${d})`,
        `count_if(${d} = 0)`,
        `avg(${d}) FILTER (${d} <> 0)`,
        `stddev_pop(${d}) FILTER (${d} <> 0)`,
      );
    } else selected.push('0', '0', '0', '0', '0');
    const countable = sql.family !== 'time' && sql.family !== 'unsupported';
    const few = countable && shape.present > 0 && shape.distinctEstimate <= maxLevels * ESTIMATE_MARGIN;
    selected.push(few ? `histogram(${isNumeric(shape) ? d : `c${i}`}) FILTER (NOT m${i})` : 'NULL');
  });
  const row = await readRow(connection, `SELECT ${selected.join(', ')} FROM ${typed}`);
  return batch.map(({ column }, i) => {
    const shape = shapeOf(i);
    const [mean, deviation, zeros, nonZeroMean, nonZeroDeviation, counts] = row.slice(i * 6, i * 6 + 6);
    const levels = shape.present === 0 ? [] : levelsOf(counts);
    return {
      name: column.name,
      key: column.key,
      family: column.family,
      present: shape.present,
      numbers: shape.numbers,
      hasCodes: shape.hasCodes,
      whole: shape.whole,
      distinctEstimate: shape.distinctEstimate,
      sequential:
        isNumeric(shape) &&
        shape.whole &&
        shape.distinctEstimate > shape.present * 0.8 &&
        shape.span + 1 >= shape.present &&
        shape.span < shape.present * 1.1,
      mean: Number(mean ?? 0),
      deviation: Number(deviation ?? 0),
      zeros: Number(zeros),
      nonZeroMean: Number(nonZeroMean ?? 0),
      nonZeroDeviation: Number(nonZeroDeviation ?? 0),
      levels: levels === null || levels.length > maxLevels ? null : levels,
    };
  });
}

const EMPTY: Shape = { present: 0, numbers: 0, hasCodes: false, whole: false, distinctEstimate: 0, span: 0 };

/** Every value is a number and none is a code with a leading zero. */
const isNumeric = (shape: Shape) => shape.present > 0 && shape.numbers === shape.present && !shape.hasCodes;

/** Spellings of the same level are counted together. */
function levelsOf(histogram: DuckDBValue | undefined): LevelCount[] | null {
  if (histogram === null || histogram === undefined) return null;
  const counts = new Map<string, number>();
  for (const { key, value } of (histogram as DuckDBMapValue).entries) {
    // Adding 0 turns -0 into 0.
    const level = typeof key === 'number' ? String(key + 0) : foldCell(String(key));
    counts.set(level, (counts.get(level) ?? 0) + Number(value));
  }
  return [...counts].map(([value, count]) => ({ value, count }));
}

async function readRow(connection: DuckDBConnection, sql: string): Promise<DuckDBValue[]> {
  const [row] = await (await connection.run(sql)).getRows();
  return row ?? [];
}
