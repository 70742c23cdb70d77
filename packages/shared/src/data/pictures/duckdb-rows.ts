import { OctomilError } from '@octomil/shared/errors';
import { foldName, trimCell } from '../cells.js';
import { readError } from '../duckdb-errors.js';
import { type ProfiledColumn, profileColumns } from '../duckdb-profile.js';
import { type DuckDbSession, openDuckDb } from '../duckdb-session.js';
import { planStream } from '../duckdb-stream.js';
import { type SqlTable, sqlTable } from '../duckdb-tables.js';
import type { LocatedFile, LocatedTable } from '../locate.js';
import type { DataSource } from '../source.js';
import type { CellRequest, ColumnProfile, ProfileRequest, TableColumn } from '../table-reader.js';
import { readPicture } from './folder-rows.js';
import { isInside } from './locate-pictures.js';
import { namedPicture } from './picture-names.js';
import type { PictureRows, PictureRun } from './picture-rows.js';

/** Where pictures are looked for when nothing is said. */
export const USUAL_PICTURE_COLUMNS: readonly string[] = ['image', 'file_name', 'path', 'file'];

/** Encoded pictures in a column, or the names of files that hold them. */
interface PictureColumn {
  readonly column: TableColumn;
  /** BLOB or VARCHAR. */
  readonly sql: string;
}

/**
 * A table with a column of pictures: `pictures` by their names relative to the table, or without those, the encoded pictures
 * themselves (BLOB, or a struct with `bytes` as HuggingFace writes it).
 *
 * @throws `data_unreadable` for a table without such a column, and as `openDuckDbTable`
 */
export async function openDuckDbRows(
  source: DataSource,
  table: LocatedTable,
  pictures: readonly LocatedFile[] | undefined,
  readerBytes: number,
): Promise<PictureRows> {
  const session = await openDuckDb(
    table.files.map(({ path }) => path),
    readerBytes,
  );
  try {
    const sql = await sqlTable(session.connection, source, table);
    const picture = await pictureColumn(session, source, sql, pictures !== undefined);
    return new DuckDbRows(session, source, table, sql, picture, pictures);
  } catch (thrown) {
    session.close();
    throw readError(source.path, table.format, thrown);
  }
}

async function pictureColumn(
  session: DuckDbSession,
  { path, images = {} }: DataSource,
  { columns, from }: SqlTable,
  isNames: boolean,
): Promise<PictureColumn> {
  const wanted = images.column === undefined ? USUAL_PICTURE_COLUMNS : [foldName(images.column)];
  const found = wanted.map((key) => columns.find(({ column }) => column.key === key)).find((one) => one !== undefined);
  if (found === undefined) {
    const names = columns.slice(0, 20).map(({ column }) => column.name);
    throw new OctomilError(
      'data_unreadable',
      `${path} has no column ${images.column === undefined ? 'of pictures (image)' : `"${images.column}"`}; its columns are ${names.join(', ')}. Name it with images.column`,
    );
  }
  const { column, sql } = found;
  if (isNames) return { column, sql: `CAST(${sql.sql} AS VARCHAR)` };
  const [row] = await (await session.connection.run(`DESCRIBE SELECT ${sql.sql} AS c FROM ${from}`)).getRows();
  const type = String(row?.[1]);
  if (type === 'BLOB') return { column, sql: sql.sql };
  if (/^STRUCT\((?:.*, )?"?bytes"? BLOB/.test(type)) return { column, sql: `struct_extract(${sql.sql}, 'bytes')` };
  throw new OctomilError(
    'data_unreadable',
    `${path}: the column "${column.name}" holds no encoded pictures (PNG or JPEG as binary, or a struct with bytes); name the one that does with images.column`,
  );
}

class DuckDbRows implements PictureRows {
  readonly columns: readonly TableColumn[];
  readonly #session: DuckDbSession;
  readonly #source: DataSource;
  readonly #table: LocatedTable;
  readonly #from: string;
  readonly #sql: SqlTable;
  readonly #bound: ReadonlyMap<string, ProfiledColumn>;
  readonly #picture: PictureColumn;
  readonly #files: ReadonlyMap<string, LocatedFile> | undefined;

  constructor(
    session: DuckDbSession,
    source: DataSource,
    table: LocatedTable,
    sql: SqlTable,
    picture: PictureColumn,
    pictures: readonly LocatedFile[] | undefined,
  ) {
    this.#session = session;
    this.#source = source;
    this.#table = table;
    this.#from = sql.from;
    this.#sql = sql;
    this.#picture = picture;
    this.#files = pictures === undefined ? undefined : new Map(pictures.map((file) => [file.shown, file]));
    const others = sql.columns.filter(({ column }) => column.key !== picture.column.key);
    this.columns = others.map(({ column }) => column);
    this.#bound = new Map(others.map((entry) => [entry.column.key, entry]));
  }

  countRows(): Promise<number> {
    return this.#count('*');
  }

  countPictures(): Promise<number> {
    return this.#count(this.#picture.sql);
  }

  async profile(request: ProfileRequest): Promise<ColumnProfile[]> {
    const columns = request.columns.map((key) => this.#column(key));
    return await this.#mapped(() =>
      profileColumns(this.#session.connection, this.#from, columns, request, this.#sql.rules),
    );
  }

  async *stream(cells: readonly CellRequest[]): AsyncGenerator<PictureRun> {
    const plan = planStream(cells, (key) => this.#column(key).sql, this.#sql.rules);
    const sql = `SELECT ${this.#picture.sql}, ${plan.select} FROM ${this.#from}`;
    const result = await this.#mapped(() => this.#session.connection.stream(sql));
    let done = 0;
    for (;;) {
      const chunk = await this.#mapped(() => result.fetchChunk());
      if (chunk === null || chunk.rowCount === 0) return;
      const pictures = chunk.getColumnVector(0);
      const first = done;
      const nameOf = (row: number): string => {
        const value: unknown = pictures.getItem(row);
        // A name is of a file; bytes have none.
        return typeof value === 'string'
          ? namedPicture(value.split(/[/\\]/).at(-1) ?? '')
          : `picture in row ${first + row + 1}`;
      };
      yield {
        rows: chunk.rowCount,
        columns: plan.read(chunk, 1),
        read: (row) => this.#read(pictures.getItem(row)),
        nameOf,
      };
      done += chunk.rowCount;
    }
  }

  close(): void {
    this.#session.close();
  }

  async #read(value: unknown): Promise<Uint8Array | undefined> {
    if (value === null) return undefined;
    if (typeof value !== 'string') return (value as { readonly bytes: Uint8Array }).bytes;
    const name = trimCell(value);
    if (name === '') return undefined;
    if (!isInside(name)) {
      throw new OctomilError(
        'invalid_input',
        'the table names a picture outside of its folder; give paths relative to the folder',
      );
    }
    const file = this.#files?.get(name.replaceAll('\\', '/').replace(/^(?:\.\/+)+/, ''));
    if (file !== undefined) return await readPicture(file);
    throw new OctomilError('data_unreadable', 'there is no such picture in the folder (.png, .jpg or .jpeg)');
  }

  async #count(what: string): Promise<number> {
    return await this.#mapped(async () => {
      const result = await this.#session.connection.run(`SELECT count(${what}) FROM ${this.#from}`);
      return Number((await result.getRows())[0]?.[0] ?? 0);
    });
  }

  #column(key: string): ProfiledColumn {
    const found = this.#bound.get(key);
    if (found === undefined) throw new OctomilError('data_mismatch', `${this.#source.path} has no column "${key}"`);
    return found;
  }

  async #mapped<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (thrown) {
      throw readError(this.#source.path, this.#table.format, thrown);
    }
  }
}
