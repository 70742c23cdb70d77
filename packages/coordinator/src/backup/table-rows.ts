import { type Kysely, sql } from 'kysely';
import type { Tables } from '../database/tables.js';

type Transaction = Kysely<Tables>;

export interface TableShape {
  readonly name: string;
  readonly columns: readonly string[];
  /** Columns of the primary key, or none. */
  readonly key: readonly string[];
}

const ROWS_AT_ONCE = 200;
const INSERT_CHARACTERS = 4 * 1024 * 1024;

/** Every table of the schema `public`, by name, without those in which migrations are counted. */
export async function listTables(transaction: Transaction): Promise<TableShape[]> {
  const { rows } = await sql<{ name: string; columns: string[]; key: string[] }>`
    select c.relname::text as name,
      (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '') as columns,
      coalesce((select array_agg(a.attname::text order by k.position) from pg_index i
        cross join lateral unnest(i.indkey::int2[]) with ordinality as k(attnum, position)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary), '{}') as key
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname not like 'kysely_migration%'
    order by c.relname`.execute(transaction);
  return rows;
}

export async function appliedMigrations(database: Kysely<Tables>): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`select name from kysely_migration order by name`.execute(database);
  return rows.map(({ name }) => name);
}

/**
 * The rows of a table as PostgreSQL writes them in JSON, one per line: exact for times to the microsecond, 64-bit integers
 * and doubles, none of which JavaScript's own conversion keeps. Read by a cursor, a few hundred at a time.
 */
export async function* dumpRows(transaction: Transaction, { name, key }: TableShape): AsyncGenerator<string> {
  const order = key.length === 0 ? sql`ctid` : sql.join(key.map((column) => sql.ref(column)));
  await sql`declare backup_rows no scroll cursor for
    select row_to_json(t)::text as line from ${sql.table(name)} as t order by ${order}`.execute(transaction);
  for (;;) {
    const { rows } = await sql<{ line: string }>`fetch ${sql.lit(ROWS_AT_ONCE)} from backup_rows`.execute(transaction);
    for (const { line } of rows) yield line;
    if (rows.length < ROWS_AT_ONCE) break;
  }
  await sql`close backup_rows`.execute(transaction);
}

/** Inserts lines of `dumpRows`, and answers how many there were. */
export async function loadRows(
  transaction: Transaction,
  { name, columns }: Pick<TableShape, 'name' | 'columns'>,
  lines: AsyncIterable<string>,
): Promise<number> {
  const fields = sql.join(columns.map((column) => sql.ref(column)));
  const table = sql.table(name);
  let batch: string[] = [];
  let characters = 0;
  let count = 0;
  const insert = async (): Promise<void> => {
    if (batch.length === 0) return;
    const json = `[${batch.join(',')}]`;
    await sql`insert into ${table} (${fields}) overriding system value
      select ${fields} from json_populate_recordset(null::${table}, ${json}::json)`.execute(transaction);
    count += batch.length;
    batch = [];
    characters = 0;
  };
  for await (const line of lines) {
    batch.push(line);
    characters += line.length;
    if (batch.length >= ROWS_AT_ONCE || characters >= INSERT_CHARACTERS) await insert();
  }
  await insert();
  return count;
}

/** Runs `load` without foreign keys, which rows of one table among themselves and tables in any order would violate. */
export async function withoutForeignKeys(transaction: Transaction, load: () => Promise<void>): Promise<void> {
  const { rows } = await sql<{ table: string; name: string; definition: string }>`
    select c.relname::text as table, f.conname::text as name, pg_get_constraintdef(f.oid) as definition
    from pg_constraint f join pg_class c on c.oid = f.conrelid
    where f.contype = 'f' and f.connamespace = 'public'::regnamespace order by 1, 2`.execute(transaction);
  for (const { table, name } of rows) {
    await sql`alter table ${sql.table(table)} drop constraint ${sql.ref(name)}`.execute(transaction);
  }
  await load();
  // Made again, each is checked against every row.
  for (const { table, name, definition } of rows) {
    await sql`alter table ${sql.table(table)} add constraint ${sql.ref(name)} ${sql.raw(definition)}`.execute(
      transaction,
    );
  }
}

/** Sets every sequence behind its table's highest number. */
export async function advanceSequences(transaction: Transaction): Promise<void> {
  const { rows } = await sql<{ table: string; column: string; sequence: string | null }>`
    select table_name::text as table, column_name::text as column,
      pg_get_serial_sequence(quote_ident(table_name), column_name) as sequence
    from information_schema.columns where table_schema = 'public'`.execute(transaction);
  for (const { table, column, sequence } of rows) {
    if (sequence === null) continue;
    await sql`select setval(${sequence}::regclass, coalesce(max(${sql.ref(column)}), 0) + 1, false)
      from ${sql.table(table)}`.execute(transaction);
  }
}

/** Names of tables that have rows. */
export async function filledTables(transaction: Transaction, tables: readonly TableShape[]): Promise<string[]> {
  const filled: string[] = [];
  for (const { name } of tables) {
    const { rows } = await sql<{ found: boolean }>`select exists (select from ${sql.table(name)}) as found`.execute(
      transaction,
    );
    if (rows[0]?.found === true) filled.push(name);
  }
  return filled;
}

/** Keys of all objects that rows name. */
export async function namedObjects(database: Kysely<Tables>, tables: readonly TableShape[]): Promise<Set<string>> {
  const keys = new Set<string>();
  for (const { name, columns } of tables) {
    for (const column of columns.filter((each) => each === 'object_key' || each.endsWith('_state_key'))) {
      const { rows } = await sql<{ key: string }>`select distinct ${sql.ref(column)} as key from ${sql.table(name)}
        where ${sql.ref(column)} is not null`.execute(database);
      for (const { key } of rows) keys.add(key);
    }
  }
  return keys;
}
