import type { ColumnDrift, SiteDrift } from './site-drift.js';
import { roundCount } from './suppression.js';

/** What a measure may be before it is worth a word. Of ratios with a reference, the difference counts. */
export interface DriftThresholds {
  /** Standard deviations. */
  readonly shift: number;
  readonly missingRatio: number;
  readonly unknownRatio: number;
  readonly levelShift: number;
  readonly clippedRatio: number;
  readonly implausibleRatio: number;
}

export const DEFAULT_DRIFT_THRESHOLDS: DriftThresholds = {
  shift: 0.5,
  missingRatio: 0.1,
  unknownRatio: 0.05,
  levelShift: 0.25,
  clippedRatio: 0.01,
  implausibleRatio: 0.01,
};

export interface DriftWarning {
  readonly column: string;
  readonly measure: keyof DriftThresholds;
  /** As in the drift; for ratios with a reference, its difference from it. */
  readonly value: number;
  readonly threshold: number;
  /** For people. */
  readonly text: string;
}

/** Which columns drifted, and how: in the order of the columns. */
export function driftWarnings(
  { columns }: Pick<SiteDrift, 'columns'>,
  thresholds: Partial<DriftThresholds> = {},
): DriftWarning[] {
  const limits = { ...DEFAULT_DRIFT_THRESHOLDS, ...thresholds };
  return columns.flatMap((column) =>
    measuresOf(column)
      .filter(({ measure, value }) => Math.abs(value) > limits[measure])
      .map(({ measure, value, text }) => ({
        column: column.name,
        measure,
        value,
        threshold: limits[measure],
        text: `column "${column.name}": ${text}`,
      })),
  );
}

interface Measure {
  readonly measure: keyof DriftThresholds;
  readonly value: number;
  readonly text: string;
}

function measuresOf(column: ColumnDrift): Measure[] {
  const { shift, missingRatio, referenceMissingRatio, unknownRatio, referenceUnknownRatio = 0 } = column;
  const { levelShift, clippedRatio, implausibleRatio } = column;
  const measures: Measure[] = [];
  if (shift !== undefined) {
    const way = shift > 0 ? 'above' : 'below';
    const text = `its mean is ${Math.abs(shift).toFixed(2)} standard deviations ${way} that of the agreed features`;
    measures.push({ measure: 'shift', value: shift, text });
  }
  if (referenceMissingRatio !== undefined) {
    const text = `${percent(missingRatio)} is missing, against ${percent(referenceMissingRatio)} when the features were agreed`;
    measures.push({ measure: 'missingRatio', value: missingRatio - referenceMissingRatio, text });
  }
  if (unknownRatio !== undefined) {
    const text = `${percent(unknownRatio)} of its values are no agreed level, against ${percent(referenceUnknownRatio)}`;
    measures.push({ measure: 'unknownRatio', value: Math.max(0, unknownRatio - referenceUnknownRatio), text });
  }
  if (levelShift !== undefined) {
    const text = `its levels are spread otherwise: ${percent(levelShift)} of the rows would have to change`;
    measures.push({ measure: 'levelShift', value: levelShift, text });
  }
  if (clippedRatio !== undefined) {
    measures.push({
      measure: 'clippedRatio',
      value: clippedRatio,
      text: `${percent(clippedRatio)} of its values are cut off as too far out`,
    });
  }
  if (implausibleRatio !== undefined) {
    const text = `${percent(implausibleRatio)} of its values are implausible; are they in another unit?`;
    measures.push({ measure: 'implausibleRatio', value: implausibleRatio, text });
  }
  return measures;
}

const percent = (ratio: number) => `${Number((ratio * 100).toFixed(1))} %`;

const MAX_COLUMNS = 200;
const MAX_WARNINGS = 50;

/** The report of a table: its most drifted columns in the order of the spec, and what to say of them. */
export function siteDrift(specHash: string, rows: number, all: readonly ColumnDrift[]): SiteDrift {
  const severity = new Map(all.map((column) => [column, severityOf(column)]));
  const kept = new Set(all.toSorted((a, b) => (severity.get(b) ?? 0) - (severity.get(a) ?? 0)).slice(0, MAX_COLUMNS));
  const columns = all.filter((column) => kept.has(column));
  const warnings = driftWarnings({ columns }).map(({ text }) => text);
  const more = warnings.length - MAX_WARNINGS;
  return {
    specHash,
    rows: roundCount(rows),
    columns,
    warnings: more > 0 ? [...warnings.slice(0, MAX_WARNINGS - 1), `and ${more + 1} more`] : warnings,
  };
}

/** How often the worst measure of a column exceeds its default threshold. */
export function severityOf(column: ColumnDrift): number {
  const worst = measuresOf(column).map(({ measure, value }) => Math.abs(value) / DEFAULT_DRIFT_THRESHOLDS[measure]);
  return Math.max(0, ...worst);
}
