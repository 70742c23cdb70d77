import { foldName } from '@octomil/shared/data';
import type { FeatureColumn, FeatureSpec } from './feature-spec.js';
import { usableRows } from './merge-column.js';
import type { SiteEntry } from './merge-statistics.js';
import { MINIMUM_ROWS } from './site-statistics.js';

export interface SiteCoverage {
  readonly deviceId: string;
  readonly name: string;
  /** False where fewer than 10 rows have a value: the column is imputed there. */
  readonly present: boolean;
  /** 0 to 1; 1 where not present. */
  readonly missingRatio: number;
}

export interface ColumnCoverage {
  readonly name: string;
  readonly kind: FeatureColumn['kind'];
  /** 0 to 1, over the rows of all sites. */
  readonly missingRatio: number;
  readonly sites: readonly SiteCoverage[];
}

/** Which sites have each column of the spec, and how much of it is missing there: what a dry run shows. */
export function columnCoverage(sites: readonly SiteEntry[], spec: FeatureSpec): ColumnCoverage[] {
  const allRows = sites.reduce((sum, { statistics }) => sum + statistics.rows, 0);
  const byName = sites.map(
    ({ statistics }) => new Map(statistics.columns.map((column) => [foldName(column.name), column])),
  );
  return spec.columns.map((column) => {
    let present = 0;
    const entries = sites.map(({ deviceId, name, statistics }, index): SiteCoverage => {
      const found = [column.name, ...(column.aliases ?? [])]
        .map((one) => byName[index]?.get(foldName(one)))
        .find((one) => one !== undefined);
      const usable = found === undefined ? 0 : usableRows(found, column.missingMarkers);
      if (usable < MINIMUM_ROWS) return { deviceId, name, present: false, missingRatio: 1 };
      present += usable;
      return { deviceId, name, present: true, missingRatio: 1 - usable / statistics.rows };
    });
    return {
      name: column.name,
      kind: column.kind,
      missingRatio: allRows === 0 ? 1 : 1 - present / allRows,
      sites: entries,
    };
  });
}
