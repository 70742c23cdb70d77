import { foldName } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { isNamed } from '@octomil/shared/policy';
import { formatTimeWindow, inTimeWindow, type TimeWindow } from '../conditions/time-window.js';

/** What protects updates from whoever collects them. */
export type PrivacyDemand = 'none' | 'secure_aggregation' | 'noise';

/** One allowance. In a name `*` stands for any characters, so that `*` alone is every name. */
export interface PolicyRule {
  readonly name: string;
  readonly federations: readonly string[];
  readonly models: readonly string[];
  readonly dataSets: readonly string[];
  /** Columns that may be described, trained and evaluated on, the target among them. Default: all. */
  readonly columns?: readonly string[];
  /** Local time. Default: always. */
  readonly hours?: readonly TimeWindow[];
  /** A rule that demands what this version cannot give allows nothing. Default: none. */
  readonly minPrivacy?: PrivacyDemand;
}

/** What work may take of this machine. */
export interface PolicyResources {
  /** Of all processors; for code of the site's own, on Linux. */
  readonly cpuPercent?: number;
  /** JavaScript heap of the trainer; resident memory of code of the site's own. */
  readonly memoryMb?: number;
  /** Millions of bits per second, of all that the agent sends and fetches together: updates, models, remote data. */
  readonly bandwidthMbit?: number;
}

/** What this site lets others do with its data. What no rule allows is refused. */
export interface Policy {
  readonly allow: readonly PolicyRule[];
  /**
   * Different questions about a data set's columns (another target, other markers, other exclusions) that are answered
   * while its data stays the same. Training and evaluation ask one too, unless their target was described. Default 8.
   */
  readonly maxQuestions?: number;
  /** Refuses everything, whatever the rules say. */
  readonly paused?: boolean;
  /** Code of the site's own that may run, by its digest. */
  readonly code?: { readonly allow: readonly { readonly trainer: string; readonly sha256: string }[] };
  readonly resources?: PolicyResources;
}

/** What somebody wants to do. No data set: work that reads none. */
export interface PolicyQuestion {
  readonly federation: string;
  readonly model: string;
  readonly dataSet: string | undefined;
  /** Columns that the work reads; undefined: not known, so not judged. */
  readonly columns?: readonly string[];
  /** Undefined: hours are not judged. */
  readonly nowMs?: number;
}

export type PolicyDecision =
  /** `columns`: those of the rule, where it has any. */
  | { readonly allowed: true; readonly rule: string; readonly columns?: readonly string[] }
  | { readonly allowed: false; readonly problem: OctomilError };

/**
 * Pure. For work that belongs to no federation (how a deployed model does here): the first rule that names the model and
 * one of the data sets, with the first data set that it names.
 */
export function ruleForModel(
  policy: Policy,
  model: string,
  dataSets: readonly string[],
): { readonly rule: string; readonly dataSet: string } | undefined {
  if (policy.paused === true) return undefined;
  for (const rule of policy.allow) {
    // Which columns such a model reads is not known here, and nobody waits for its figures.
    if (rule.columns !== undefined || demands(rule) !== undefined) continue;
    const dataSet = isNamed(rule.models, model) ? dataSets.find((name) => isNamed(rule.dataSets, name)) : undefined;
    if (dataSet !== undefined) return { rule: rule.name, dataSet };
  }
  return undefined;
}

/** Pure. Whether a rule's columns name this one; names are compared as in files (`Chest Pain` = `chest_pain`). */
export function isColumnAllowed(columns: readonly string[] | undefined, column: string): boolean {
  return columns === undefined || isNamed(columns.map(foldPattern), foldName(column));
}

/** Pure. Whether the policy allows a trainer's code, by the digest that it has now. */
export function isCodeAllowed(policy: Policy, trainer: string, sha256: string): boolean {
  return policy.code?.allow.some((one) => one.trainer === trainer && one.sha256 === sha256) ?? false;
}

type Missing = 'paused' | 'federation' | 'model' | 'data_set' | 'columns' | 'hours' | 'min_privacy';

/** One thing that a rule must hold in, and what to say when none does. */
interface Stage {
  readonly missing: Missing;
  readonly holds: (rule: PolicyRule) => boolean;
  readonly reason: (rules: readonly PolicyRule[]) => string;
}

/**
 * Pure. The first rule that holds in everything allows; a refusal (`policy_denied`) says where the last rules fell out, in
 * the order federation, model, data set, columns, hours, privacy.
 */
export function decide(policy: Policy, question: PolicyQuestion): PolicyDecision {
  if (policy.paused === true) {
    return refused(
      question,
      'paused',
      'this site is paused; its owner goes on with octomil agent resume, or with paused: false in the policy',
      [],
    );
  }
  if (policy.allow.length === 0) {
    return refused(question, 'federation', `this site's policy has no rule, so it allows nothing; ${ADVICE}`, []);
  }
  let left = policy.allow;
  for (const { missing, holds, reason } of stagesOf(question)) {
    const next = left.filter(holds);
    if (next.length === 0) return refused(question, missing, reason(left), missing === 'federation' ? [] : left);
    left = next;
  }
  const [rule] = left;
  return {
    allowed: true,
    rule: rule?.name ?? '',
    ...(rule?.columns === undefined ? {} : { columns: rule.columns }),
  };
}

const ADVICE = "the site's owner can add it to the agent's policy";

function stagesOf({ federation, model, dataSet, columns = [], nowMs }: PolicyQuestion): Stage[] {
  return [
    {
      missing: 'federation',
      holds: (rule) => isNamed(rule.federations, federation),
      reason: () => `no rule of this site's policy allows federation "${federation}"; ${ADVICE}`,
    },
    {
      missing: 'model',
      holds: (rule) => isNamed(rule.models, model),
      reason: (rules) =>
        `federation "${federation}" may not train model "${model}" here: no rule among ${listed(rules)} names it; ${ADVICE}`,
    },
    {
      missing: 'data_set',
      holds: (rule) => dataSet === undefined || isNamed(rule.dataSets, dataSet),
      reason: (rules) =>
        `federation "${federation}" may not use data set "${dataSet}" for model "${model}" here: no rule among ${listed(rules)} names it; ${ADVICE}`,
    },
    {
      missing: 'columns',
      holds: (rule) => columns.every((column) => isColumnAllowed(rule.columns, column)),
      reason: (rules) =>
        `model "${model}" needs columns that no rule among ${listed(rules)} allows: ${notAllowedBy(rules, columns)}; ${ADVICE}`,
    },
    {
      missing: 'hours',
      holds: (rule) => nowMs === undefined || (rule.hours?.some((hours) => inTimeWindow(hours, nowMs)) ?? true),
      reason: (rules) => `now is outside of the hours of ${listed(rules)}: ${hoursOf(rules)}`,
    },
    {
      missing: 'min_privacy',
      holds: (rule) => demands(rule) === undefined,
      reason: (rules) =>
        `${listed(rules)} demands ${[...new Set(rules.map(demands))].join(', ')} (min_privacy), which this version cannot give; nothing leaves without it`,
    },
  ];
}

const listed = (rules: readonly PolicyRule[]): string => rules.map((one) => `"${one.name}"`).join(', ');

const foldPattern = (pattern: string): string => pattern.split('*').map(foldName).join('*');

/** What this version cannot give. */
function demands({ minPrivacy }: PolicyRule): string | undefined {
  if (minPrivacy === undefined || minPrivacy === 'none') return undefined;
  return minPrivacy === 'noise' ? 'noise' : 'secure aggregation';
}

function notAllowedBy(rules: readonly PolicyRule[], columns: readonly string[]): string {
  const names = columns.filter((column) => rules.some((rule) => !isColumnAllowed(rule.columns, column)));
  const shown = names
    .slice(0, 20)
    .map((name) => `"${name}"`)
    .join(', ');
  return names.length > 20 ? `${shown} and ${names.length - 20} more` : shown;
}

function hoursOf(rules: readonly PolicyRule[]): string {
  return [...new Set(rules.flatMap(({ hours = [] }) => hours.map(formatTimeWindow)))].join(', ');
}

function refused(
  { federation, model, dataSet }: PolicyQuestion,
  missing: Missing,
  reason: string,
  closest: readonly PolicyRule[],
): PolicyDecision {
  const rules = closest.map((one) => one.name);
  return {
    allowed: false,
    problem: new OctomilError('policy_denied', reason, {
      details: { missing, federation, model, dataSet: dataSet ?? null, rules },
    }),
  };
}
