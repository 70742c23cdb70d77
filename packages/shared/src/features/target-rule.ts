import { OctomilError } from '../errors/index.js';

export const COMPARISONS = ['>', '>=', '<', '<=', '==', '!='] as const;
export type Comparison = (typeof COMPARISONS)[number];

/**
 * What a model learns to predict. With `comparison` the answer is 1 where `column comparison value` holds and else 0;
 * without, the column's own values are the classes (or, for regression, the numbers).
 */
export interface TargetRule {
  readonly column: string;
  readonly comparison?: Comparison;
  readonly value?: number | string;
}

const RULE = /^\s*(?<column>.*?)\s*(?:(?<comparison>>=|<=|==|!=|>|<|=)\s*(?<value>.*?)\s*)?$/u;
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;

/**
 * Reads `num>0`, `num>=1`, `outcome==yes`, `outcome != "not known"` or a bare column name. A single `=` means `==`.
 *
 * @throws `invalid_input` where there is no column, no value after a comparison, or an order (`<`, `>`) on text.
 */
export function parseTargetRule(text: string): TargetRule {
  const groups = RULE.exec(text)?.groups ?? {};
  const column = groups['column'] ?? '';
  const comparison = groups['comparison'] === '=' ? '==' : groups['comparison'];
  const help = 'write a column name, or a comparison such as "num>0" or "outcome==yes"';
  if (column === '') throw new OctomilError('invalid_input', `the target "${text}" names no column; ${help}`);
  if (comparison === undefined) return { column };
  const raw = groups['value'] ?? '';
  const quoted = /^(["'])(.*)\1$/.exec(raw)?.[2];
  if (raw === '' || (quoted === undefined && /[<>=!]/.test(raw))) {
    throw new OctomilError('invalid_input', `the target "${text}" compares "${column}" with nothing; ${help}`);
  }
  const value = quoted === undefined && NUMBER.test(raw) ? Number(raw) : (quoted ?? raw);
  if (typeof value === 'string' && comparison !== '==' && comparison !== '!=') {
    throw new OctomilError('invalid_input', `the target "${text}" orders text; only == and != compare with text`);
  }
  return { column, comparison: comparison as Comparison, value };
}

/** The rule as a user would write it. */
export function formatTargetRule(rule: TargetRule): string {
  return rule.comparison === undefined ? rule.column : `${rule.column}${rule.comparison}${rule.value}`;
}
