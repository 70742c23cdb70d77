import { FALSE_TEXTS, foldName, TRUE_TEXTS } from '@octomil/shared/data';
import type { ColumnStatistics, FeatureColumn, SiteEntry } from '@octomil/shared/features';

export interface Described {
  readonly site: string;
  readonly column: ColumnStatistics;
}

/** What the sites told of each column, found by name: a proposal may have thousands of them. */
export class ToldColumns {
  readonly #byKey = new Map<string, Described[]>();

  constructor(sites: readonly SiteEntry[]) {
    for (const { name: site, statistics } of sites) {
      for (const column of statistics.columns) {
        const key = foldName(column.name);
        const told = this.#byKey.get(key);
        if (told === undefined) this.#byKey.set(key, [{ site, column }]);
        else told.push({ site, column });
      }
    }
  }

  /** Sites may know it by one of its aliases. */
  of({ name, aliases = [] }: { readonly name: string; readonly aliases?: readonly string[] }): Described[] {
    const keys = new Set([name, ...aliases].map(foldName));
    return [...keys].flatMap((key) => this.#byKey.get(key) ?? []);
  }
}

const SEEN_WORDS: Readonly<Record<ColumnStatistics['seen'], string>> = {
  numeric: 'a number',
  integer: 'a whole number',
  boolean: 'true or false',
  text: 'text',
  time: 'a date',
  image: 'a picture',
};

const isNumber = (seen: ColumnStatistics['seen']): boolean => seen === 'numeric' || seen === 'integer';

const BOOLEAN_TEXTS: ReadonlySet<string> = new Set([...TRUE_TEXTS, ...FALSE_TEXTS]);

/** Why a column cannot be of its kind, by what the sites told of it; undefined where it can. */
export function contradictionOf(column: FeatureColumn, described: readonly Described[]): string | undefined {
  // Of what sites leave out by default the name alone is told, which holds nothing against any kind.
  switch (column.kind) {
    case 'numeric': {
      const other = described.find(({ column: { seen } }) => !isNumber(seen));
      return other === undefined
        ? undefined
        : `is numeric, but ${SEEN_WORDS[other.column.seen]} at site "${other.site}"`;
    }
    case 'boolean': {
      const other = described.find(({ column: seen }) => !mayBeBoolean(seen));
      return other === undefined
        ? undefined
        : `is boolean, but has other values than true and false at site "${other.site}"`;
    }
    case 'categorical':
    case 'ordinal':
      return levelProblem(column.kind, column.levels, column.values, described);
    case 'datetime':
    case 'hashed':
      return undefined;
    case 'image': {
      const other = described.find(
        ({ column: { image } }) => image?.height !== column.height || image.width !== column.width,
      );
      return other === undefined
        ? undefined
        : `holds pictures of ${column.height} × ${column.width}, but ${SEEN_WORDS[other.column.seen]} or another size at site "${other.site}"`;
    }
  }
}

function mayBeBoolean({ seen, levels, other, categories }: ColumnStatistics): boolean {
  if (seen === 'boolean') return true;
  return levels !== null && other === 0 && categories.every(({ value }) => BOOLEAN_TEXTS.has(value));
}

function levelProblem(
  kind: string,
  levels: readonly string[],
  values: 'text' | 'number',
  described: readonly Described[],
): string | undefined {
  const other = described.find(({ column: { seen } }) =>
    values === 'number' ? !isNumber(seen) : isNumber(seen) || seen === 'time',
  );
  if (other !== undefined) {
    return `is ${kind} with ${values === 'number' ? 'numbers' : 'texts'} as levels, but ${SEEN_WORDS[other.column.seen]} at site "${other.site}"`;
  }
  const told = new Set(described.flatMap(({ column }) => column.categories.map(({ value }) => value)));
  // Values of fewer than ten rows are not told, so that a level that nobody told of may occur; one must be known.
  if (told.size === 0 || levels.some((level) => told.has(level))) return undefined;
  return `has the levels ${levels.slice(0, 10).join(', ')}, of which none is among the values that sites have: ${[...told].slice(0, 10).join(', ')}`;
}
