import { parseTargetRule } from '@octomil/shared/features';
import type { TaskJson } from '../training/task.js';
import { isColumnAllowed } from './policy.js';

/**
 * Columns that an assignment reads by its own words: those of its feature spec, under all their names, those that dates are
 * measured from, and its target. A description reads all columns; which of them leave is settled by {@link allowedStatistics}.
 */
export function columnsOfTask(kind: string, json: TaskJson): string[] {
  if (kind === 'describe') {
    const hints = Object.values(fieldsOf(json['hints']));
    return [
      ...nameOf(json['target']),
      // Of dates, what leaves tells of the column that they are measured from as well.
      ...hints.flatMap((hint) => textOf(fieldsOf(fieldsOf(hint)['reference'])['column'])),
    ];
  }
  const spec = fieldsOf(json['featureSpec']);
  const columns = Array.isArray(spec['columns']) ? (spec['columns'] as unknown[]) : [];
  const holdout = fieldsOf(json['holdout'])['entityColumn'];
  return [
    ...columns
      .map(fieldsOf)
      .flatMap(({ name, aliases, from }) => [
        ...textOf(name),
        ...(Array.isArray(aliases) ? (aliases as unknown[]).flatMap(textOf) : []),
        ...textOf(fieldsOf(from)['column']),
      ]),
    ...nameOf(fieldsOf(spec['target'])['rule']),
    ...textOf(holdout),
  ];
}

/** Statistics as JSON without the columns that the rule does not name, also among those that were left out by themselves. */
export function allowedStatistics(json: string, columns: readonly string[] | undefined): string {
  if (columns === undefined) return json;
  const statistics = fieldsOf(JSON.parse(json));
  const kept = (list: unknown): unknown =>
    Array.isArray(list)
      ? (list as unknown[]).filter((one) =>
          textOf(fieldsOf(one)['name']).every((name) => isColumnAllowed(columns, name)),
        )
      : list;
  return JSON.stringify({
    ...statistics,
    columns: kept(statistics['columns']),
    excluded: kept(statistics['excluded']),
  });
}

/** Of a target rule: an object, or a text such as `num>0`. */
function nameOf(rule: unknown): string[] {
  if (typeof rule === 'string') return textOf(fieldsOf(parseRule(rule))['column']);
  return textOf(fieldsOf(rule)['column']);
}

function parseRule(text: string): unknown {
  try {
    return parseTargetRule(text);
  } catch {
    // The trainer refuses it by name.
    return undefined;
  }
}

const textOf = (value: unknown): string[] => (typeof value === 'string' ? [value] : []);

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
