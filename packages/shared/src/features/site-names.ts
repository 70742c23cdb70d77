import { type CellRequest, type DataSource, foldName, type TableReader } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';

/**
 * The table under the federation's names, where the site has said what it calls them (`DataSource.names`). A column of
 * the site's that has such a name itself, but is not meant, is not there.
 *
 * @param agreed names and aliases that the federation has agreed on, by which the site may name units as well
 * @throws `data_mismatch` for a name or unit of a column that neither the table nor the federation has
 */
export function withSiteNames(reader: TableReader, agreed: readonly string[]): TableReader {
  const { source, columns } = reader;
  const own = new Map(columns.map((column) => [column.key, column]));
  const meant = new Map<string, string>();
  for (const [name, column] of Object.entries(source.names ?? {})) {
    requireColumn(reader, column, `for "${name}"`);
    meant.set(foldName(name), foldName(column));
  }
  const known = new Set([...meant.keys(), ...agreed.map(foldName)]);
  for (const column of Object.keys(source.units ?? {})) {
    if (!known.has(foldName(column))) requireColumn(reader, column, 'with a unit');
  }
  if (meant.size === 0) return reader;
  const federal = new Map([...meant].map(([name, key]) => [key, name]));
  const spelled = new Map(Object.keys(source.names ?? {}).map((name) => [foldName(name), name]));
  const renamed = columns.flatMap((column) => {
    const key = federal.get(column.key);
    if (key !== undefined) return [{ ...column, key, name: spelled.get(key) ?? key }];
    return meant.has(column.key) ? [] : [column];
  });
  const ownKey = (key: string) => meant.get(key) ?? key;
  const names = new Map(renamed.map((column) => [column.key, column.name]));
  return {
    source,
    columns: renamed,
    countRows: () => reader.countRows(),
    ...(reader.knownRows === undefined ? {} : { knownRows: () => reader.knownRows?.() ?? Promise.resolve(undefined) }),
    profile: async (request) => {
      const profiles = await reader.profile({
        ...request,
        columns: request.columns.map(ownKey),
        missingMarkers: new Map([...request.missingMarkers].map(([key, markers]) => [ownKey(key), markers])),
      });
      return profiles.map((profile, i) => {
        const key = request.columns[i] ?? profile.key;
        return { ...profile, key, name: names.get(key) ?? own.get(profile.key)?.name ?? profile.name };
      });
    },
    stream: (cells) => reader.stream(cells.map((cell): CellRequest => ({ ...cell, column: ownKey(cell.column) }))),
    close: () => reader.close(),
  };
}

/** The site's units by the key under which `withSiteNames` has the column. */
export function siteUnits({ units, names }: DataSource): Map<string, string> {
  const federal = new Map(Object.entries(names ?? {}).map(([name, column]) => [foldName(column), foldName(name)]));
  return new Map(
    Object.entries(units ?? {}).map(([column, unit]) => [federal.get(foldName(column)) ?? foldName(column), unit]),
  );
}

function requireColumn({ source, columns }: TableReader, wanted: string, why: string): void {
  if (columns.some(({ key }) => key === foldName(wanted))) return;
  const names = columns.slice(0, 20).map(({ name }) => name);
  throw new OctomilError(
    'data_mismatch',
    `${source.path} has no column "${wanted}", which the site's configuration names ${why}; its columns are ${names.join(', ')}${columns.length > 20 ? ', ...' : ''}`,
  );
}
