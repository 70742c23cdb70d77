import { DATE_CYCLES, type DateCycle, type DatePart, type FeatureColumn, type FeatureSpec } from './feature-spec.js';

export function isCycle(part: DatePart): part is { readonly part: DateCycle } {
  return DATE_CYCLES.some((cycle) => cycle === part.part);
}

/** Inputs that one column takes. */
export function columnWidth(column: FeatureColumn): number {
  return valueWidth(column) + (column.missingIndicator ? 1 : 0);
}

/** The same without the missing indicator, which comes last. */
export function valueWidth(column: FeatureColumn): number {
  switch (column.kind) {
    case 'numeric':
    case 'boolean':
    case 'ordinal':
      return 1;
    case 'categorical':
      return column.levels.length + 1;
    case 'hashed':
      return column.buckets;
    case 'datetime':
      return column.parts.reduce((width, part) => width + (isCycle(part) ? 2 : 1), 0);
    case 'image':
      return column.height * column.width * column.channels;
  }
}

/** Inputs of the model: the width of one encoded row. */
export function encodedWidth(spec: Pick<FeatureSpec, 'columns'>): number {
  return spec.columns.reduce((width, column) => width + columnWidth(column), 0);
}
