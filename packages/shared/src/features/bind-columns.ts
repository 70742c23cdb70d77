import { foldName, type TableReader } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { FeatureColumn, UnitConversion } from './feature-spec.js';
import { siteUnits } from './site-names.js';
import { conversionBetween, foldUnit } from './units.js';

/** Where a column of the spec is in a table. */
export interface BoundColumn {
  /** Undefined where the table lacks the column. */
  readonly key: string | undefined;
  /** From the site's unit to the spec's; absent where they are the same. */
  readonly conversion?: UnitConversion;
}

/** Columns by name, or by the first alias that the table has. */
export function columnBinder(reader: TableReader): (column: FeatureColumn) => BoundColumn {
  const keys = new Set(reader.columns.map(({ key }) => key));
  const units = siteUnits(reader.source);
  return (column) => {
    const names = [column.name, ...(column.aliases ?? [])].map(foldName);
    const key = names.find((one) => keys.has(one));
    const unit = unitOf(units, key, names);
    if (key === undefined || unit === undefined || column.kind !== 'numeric') return { key };
    if (column.unit !== undefined && foldUnit(unit) === foldUnit(column.unit)) return { key };
    const conversion =
      column.unit === undefined ? undefined : conversionBetween(unit, column.unit, [], column.units ?? {});
    if (conversion !== undefined) return { key, conversion };
    const known = Object.keys(column.units ?? {});
    throw new OctomilError(
      'data_mismatch',
      column.unit === undefined
        ? `${reader.source.path}: the site has the column "${column.name}" in ${unit}, but the agreed features name no unit for it; give the unit in a hint`
        : `${reader.source.path}: the site has the column "${column.name}" in ${unit}, but the agreed features know ${[column.unit, ...known].join(', ')} for it; give the factor in a hint (units)`,
    );
  };
}

/** By what the table calls the column, or by what the federation does. */
export function unitOf(
  units: ReadonlyMap<string, string>,
  key: string | undefined,
  names: readonly string[],
): string | undefined {
  if (key === undefined) return undefined;
  const found = [key, ...names].find((name) => units.has(name));
  return found === undefined ? undefined : units.get(found);
}
