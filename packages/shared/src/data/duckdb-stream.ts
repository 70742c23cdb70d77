import type { DuckDBDataChunk, DuckDBDoubleVector, DuckDBListVector } from '@duckdb/node-api';
import { type CellRules, cellSql, type SqlColumn } from './duckdb-cells.js';
import type { CellRequest } from './table-reader.js';

/** From this many cells a row on, numbers are read as one list. */
const WIDE_CELLS = 200;

export interface StreamPlan {
  /** The select list of the query. */
  readonly select: string;
  /** The chunk's cells, one array per request. `offset`: columns that are selected before the plan's own. */
  read(chunk: DuckDBDataChunk, offset?: number): Float64Array[];
}

/**
 * Plans the query for a row's cells: a column each, or for wide tables one list of all the number cells, since
 * planning a query takes time by the square of its expressions (12 s for 3,000 columns, against 0.2 s as a list).
 */
export function planStream(
  cells: readonly CellRequest[],
  columnOf: (key: string) => SqlColumn,
  rules: CellRules,
): StreamPlan {
  const listed = cells.map((cell) => cells.length >= WIDE_CELLS && isPlainNumber(cell, columnOf(cell.column)));
  const selected: string[] = [];
  const places = cells.map((cell, i) => {
    if (listed[i] === true) return -1;
    return selected.push(cellSql(columnOf(cell.column), cell, rules)) - 1;
  });
  const inList = cells.filter((_, i) => listed[i]);
  const listAt = selected.length;
  if (inList.length > 0) {
    const item = cellSql({ sql: 'x', family: 'text' }, { column: 'x', as: 'number' }, rules);
    selected.push(`list_transform([${inList.map(({ column }) => columnOf(column).sql).join(', ')}], x -> ${item})`);
  }
  return {
    select: selected.length === 0 ? '0' : selected.join(', '),
    read(chunk, offset = 0) {
      const list =
        inList.length === 0 ? [] : transpose(chunk.getColumnVector(offset + listAt) as DuckDBListVector, inList.length);
      let next = 0;
      return places.map((place) =>
        place >= 0
          ? doubles(chunk.getColumnVector(offset + place) as DuckDBDoubleVector)
          : (list[next++] ?? new Float64Array(chunk.rowCount)),
      );
    },
  };
}

/** Cells that one expression can read: text columns without missing texts of their own. */
function isPlainNumber(cell: CellRequest, { family }: SqlColumn): boolean {
  return cell.as === 'number' && family === 'text' && (cell.missingTexts ?? []).length === 0;
}

/** The vector's own memory, not a copy: reading cell by cell through `getItem` takes ten times as long. */
function doubles(vector: DuckDBDoubleVector): Float64Array {
  return vector['items'];
}

/** Lists of equal length, one per row, as one array per position. */
function transpose(vector: DuckDBListVector, length: number): Float64Array[] {
  const rows = vector.itemCount;
  const items = doubles(vector.childVector as DuckDBDoubleVector);
  const columns = Array.from({ length }, () => new Float64Array(rows));
  for (let row = 0; row < rows; row++) {
    const from = vector.getEntryOffset(row);
    for (const [i, column] of columns.entries()) column[row] = items[from + i] ?? Number.NaN;
  }
  return columns;
}
