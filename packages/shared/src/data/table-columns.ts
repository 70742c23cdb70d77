import { OctomilError } from '@octomil/shared/errors';
import { foldName } from './cells.js';
import type { LocatedFile } from './locate.js';
import type { ColumnFamily, TableColumn } from './table-reader.js';

/** More columns than this are refused: a wide table is a mistake (rows and columns swapped) more often than not. */
export const MAX_COLUMNS = 10_001;

/** @throws `data_unreadable` for too many columns and for two of the same name. */
export function nameColumns(path: string, found: readonly { name: string; family: ColumnFamily }[]): TableColumn[] {
  if (found.length > MAX_COLUMNS) {
    throw new OctomilError(
      'data_unreadable',
      `${path} has ${found.length} columns; at most ${MAX_COLUMNS} can be read. Are rows and columns swapped?`,
    );
  }
  const byKey = new Map<string, string>();
  return found.map(({ name: spelled, family }, index) => {
    // Spreadsheets and data frames write the row number under an empty name.
    const name = spelled.trim() === '' ? `unnamed_${index + 1}` : spelled.trim();
    const key = foldName(name);
    const other = byKey.get(key);
    if (other !== undefined) {
      throw new OctomilError(
        'data_unreadable',
        `${path} has two columns called "${name}"${other === name ? '' : ` ("${other}" counts as the same: case, spaces and - _ . make no difference)`}; rename or drop one`,
      );
    }
    byKey.set(key, name);
    return { name, key, family };
  });
}

export interface FileColumns {
  readonly file: LocatedFile;
  readonly columns: readonly TableColumn[];
}

/**
 * Files of one table have the same columns, in whatever order.
 *
 * @throws `data_unreadable` naming the file and its columns that differ.
 */
export function checkSameColumns(first: FileColumns, other: FileColumns): void {
  const byKey = (columns: readonly TableColumn[]) => new Map(columns.map((column) => [column.key, column]));
  const [wanted, found] = [byKey(first.columns), byKey(other.columns)];
  const lacking = first.columns.filter(({ key }) => !found.has(key));
  const added = other.columns.filter(({ key }) => !wanted.has(key));
  const changed = other.columns.filter(({ key, family }) => wanted.has(key) && wanted.get(key)?.family !== family);
  const differences = [
    ...(lacking.length === 0 ? [] : [`it lacks ${listed(lacking)}`]),
    ...(added.length === 0 ? [] : [`only it has ${listed(added)}`]),
    ...changed
      .slice(0, 5)
      .map(({ key, name, family }) => `"${name}" holds ${family}, there ${wanted.get(key)?.family ?? 'nothing'}`),
  ];
  if (differences.length === 0) return;
  throw new OctomilError(
    'data_unreadable',
    `${other.file.shown} does not have the columns of ${first.file.shown}: ${differences.join('; ')}. Files of one data set need the same columns`,
  );
}

function listed(columns: readonly TableColumn[]): string {
  const names = columns.slice(0, 10).map(({ name }) => `"${name}"`);
  return columns.length > 10 ? `${names.join(', ')} and ${columns.length - 10} more` : names.join(', ');
}
