import type { DescribeQuestion } from './question-log.js';

/**
 * What a feature spec asks about the rows of a site; undefined where it names no target, so that no trainer takes it.
 * The spec may be of any shape: it is checked later, in the trainer.
 */
export function questionOfSpec(featureSpec: unknown): DescribeQuestion | undefined {
  const { columns, target } = fieldsOf(featureSpec);
  const { rule, missingMarkers } = fieldsOf(target);
  const { column } = fieldsOf(rule);
  if (typeof column !== 'string') return undefined;
  const marked = [
    ...(Array.isArray(columns) ? columns.map(fieldsOf) : []).map(
      (one) => [one['name'], one['missingMarkers']] as const,
    ),
    [column, missingMarkers] as const,
  ];
  return {
    target: rule,
    missingMarkers: Object.fromEntries(
      marked.flatMap(([name, markers]) =>
        typeof name === 'string' && Array.isArray(markers) ? [[name, markers as unknown[]]] : [],
      ),
    ),
  };
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
