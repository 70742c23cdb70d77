import { OctomilError } from '@octomil/shared/errors';
import { isNamed } from '@octomil/shared/policy';

/** One allowance. In a name `*` stands for any characters, so that `*` alone is every name. */
export interface PolicyRule {
  readonly name: string;
  readonly federations: readonly string[];
  readonly models: readonly string[];
  readonly dataSets: readonly string[];
}

/** What this site lets others do with its data. What no rule allows is refused. */
export interface Policy {
  readonly allow: readonly PolicyRule[];
  /**
   * Different questions about a data set's columns (another target, other markers, other exclusions) that are answered
   * while its data stays the same. Training and evaluation ask one too, unless their target was described. Default 8.
   */
  readonly maxQuestions?: number;
}

/** What somebody wants to do. No data set: work that reads none. */
export interface PolicyQuestion {
  readonly federation: string;
  readonly model: string;
  readonly dataSet: string | undefined;
}

export type PolicyDecision =
  | { readonly allowed: true; readonly rule: string }
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
  for (const rule of policy.allow) {
    const dataSet = isNamed(rule.models, model) ? dataSets.find((name) => isNamed(rule.dataSets, name)) : undefined;
    if (dataSet !== undefined) return { rule: rule.name, dataSet };
  }
  return undefined;
}

/**
 * Pure. The first rule that names all three allows; a refusal (`policy_denied`) says which of the three no rule names,
 * in the order federation, model, data set.
 */
export function decide(policy: Policy, question: PolicyQuestion): PolicyDecision {
  const { federation, model, dataSet } = question;
  const byFederation = policy.allow.filter((rule) => isNamed(rule.federations, federation));
  const byModel = byFederation.filter((rule) => isNamed(rule.models, model));
  const matching = dataSet === undefined ? byModel : byModel.filter((rule) => isNamed(rule.dataSets, dataSet));
  const [rule] = matching;
  if (rule !== undefined) return { allowed: true, rule: rule.name };

  const listed = (rules: readonly PolicyRule[]): string => rules.map((one) => `"${one.name}"`).join(', ');
  let missing: 'federation' | 'model' | 'data_set';
  let reason: string;
  if (policy.allow.length === 0) {
    missing = 'federation';
    reason = "this site's policy has no rule, so it allows nothing";
  } else if (byFederation.length === 0) {
    missing = 'federation';
    reason = `no rule of this site's policy allows federation "${federation}"`;
  } else if (byModel.length === 0) {
    missing = 'model';
    reason = `federation "${federation}" may not train model "${model}" here: no rule among ${listed(byFederation)} names it`;
  } else {
    missing = 'data_set';
    reason = `federation "${federation}" may not use data set "${dataSet}" for model "${model}" here: no rule among ${listed(byModel)} names it`;
  }
  const closest = missing === 'model' ? byFederation : missing === 'data_set' ? byModel : [];
  return {
    allowed: false,
    problem: new OctomilError('policy_denied', `${reason}; the site's owner can add it to the agent's policy`, {
      details: { missing, federation, model, dataSet: dataSet ?? null, rules: closest.map((one) => one.name) },
    }),
  };
}
