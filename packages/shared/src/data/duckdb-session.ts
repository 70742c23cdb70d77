import type { DuckDBConnection, DuckDBInstance } from '@duckdb/node-api';

export interface DuckDbSession {
  readonly connection: DuckDBConnection;
  close(): void;
}

/**
 * Opens DuckDB for the files of a table and locks it down: it can read these and nothing else, write nothing (no spilling of
 * patients' rows into a temporary folder), load no extension and reach no network, and none of it can be undone.
 *
 * It keeps within `memoryBytes`; chunks that were handed out come on top.
 *
 * One thread: the order in which numbers are summed is then fixed, and a site's machine stays usable.
 */
export async function openDuckDb(paths: readonly string[], memoryBytes: number): Promise<DuckDbSession> {
  // Loaded here, not at the top: the library weighs 70 MB, and the coordinator and the idle agent never need it.
  const { DuckDBInstance: Instance } = await import('@duckdb/node-api');
  const instance: DuckDBInstance = await Instance.create(':memory:', {
    autoinstall_known_extensions: 'false',
    autoload_known_extensions: 'false',
    allow_community_extensions: 'false',
    threads: '1',
    memory_limit: `${memoryBytes}B`,
    temp_directory: '',
  });
  const connection = await instance.connect();
  await connection.run(`SET allowed_paths=[${paths.map(quoteText).join(', ')}]`);
  await connection.run('SET enable_external_access=false');
  // Times with a zone are the same numbers on every machine.
  await connection.run("SET TimeZone='UTC'");
  await connection.run('SET lock_configuration=true');
  return {
    connection,
    close: () => {
      connection.closeSync();
      instance.closeSync();
    },
  };
}

export function quoteText(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** A double, exactly: a bare `0.1` would be a DECIMAL. */
export function quoteNumber(value: number): string {
  return `CAST('${value}' AS DOUBLE)`;
}
