import { type CellRequest, foldCell, type MissingMarker, numberOfText, splitMarkers } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { TargetSpec } from './feature-spec.js';
import { formatTargetRule, type TargetRule } from './target-rule.js';

/** How the target's cells are read where the rule compares. */
export function targetCell(key: string, rule: TargetRule, markers: readonly MissingMarker[]): CellRequest {
  const missingTexts = splitMarkers(markers).texts;
  if (typeof rule.value === 'string') {
    return { column: key, as: 'level', levels: [foldCell(rule.value)], missingTexts };
  }
  return { column: key, as: 'number', missingTexts };
}

/**
 * 1 where the comparison holds, 0 where it does not, NaN where the cell is missing.
 *
 * @throws `data_mismatch` where a number is compared with text.
 */
export function compareCell(rule: TargetRule, cell: number, markers: readonly MissingMarker[], path: string): number {
  if (Number.isNaN(cell)) return cell;
  const { comparison, value } = rule;
  if (typeof value === 'string') return (cell === 0) === (comparison === '==') ? 1 : 0;
  if (!Number.isFinite(cell)) {
    throw new OctomilError(
      'data_mismatch',
      `${path}: the target "${formatTargetRule(rule)}" compares numbers, but the column "${rule.column}" holds other values; compare with text (==, !=) or declare those values as missing`,
    );
  }
  if (splitMarkers(markers).numbers.includes(cell)) return Number.NaN;
  return holds(cell, comparison, value ?? 0) ? 1 : 0;
}

function holds(cell: number, comparison: TargetRule['comparison'], value: number): boolean {
  switch (comparison) {
    case '>':
      return cell > value;
    case '>=':
      return cell >= value;
    case '<':
      return cell < value;
    case '<=':
      return cell <= value;
    case '!=':
      return cell !== value;
    case '==':
    case undefined:
      return cell === value;
  }
}

export interface TargetEncoder {
  readonly cell: CellRequest;
  /** Not there, rather than no class of the spec. */
  isMissing(cell: number): boolean;
  /** The number to learn; NaN where the row is to be dropped. */
  encode(cell: number): number;
}

/** Reads and encodes the target by the spec. */
export function targetEncoder(target: TargetSpec, key: string, path: string): TargetEncoder {
  const { rule, missingMarkers: markers } = target;
  if (rule.comparison !== undefined) {
    const { numbers } = splitMarkers(markers);
    return {
      cell: targetCell(key, rule, markers),
      isMissing: () => true,
      encode: (cell) => compareCell(rule, cell, numbers, path),
    };
  }
  const { numbers, texts: missingTexts } = splitMarkers(markers);
  const isMissing = (cell: number) => Number.isNaN(cell) || numbers.includes(cell);
  if (target.output.kind === 'regression') {
    return {
      cell: { column: key, as: 'number', missingTexts },
      isMissing,
      encode: (cell) => {
        if (isMissing(cell)) return Number.NaN;
        if (Number.isFinite(cell)) return (cell - target.mean) / target.deviation;
        throw new OctomilError(
          'data_mismatch',
          `${path}: the target "${rule.column}" holds values that are no numbers`,
        );
      },
    };
  }
  if (target.values === 'text') {
    return {
      cell: { column: key, as: 'level', levels: target.classes, missingTexts },
      isMissing: (cell) => Number.isNaN(cell),
      encode: (cell) => (cell >= 0 ? cell : Number.NaN),
    };
  }
  const classes = target.classes.map((name) => numberOfText(name) ?? Number.NaN);
  return {
    cell: { column: key, as: target.values, missingTexts },
    isMissing,
    encode: (cell) => {
      const index = numbers.includes(cell) ? -1 : classes.indexOf(cell);
      return index < 0 ? Number.NaN : index;
    },
  };
}
