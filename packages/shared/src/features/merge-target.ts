import { FALSE_TEXTS, type MissingMarker, TRUE_TEXTS } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { TargetOutput, TargetReference, TargetSpec } from './feature-spec.js';
import type { SiteEntry } from './merge-statistics.js';
import { combineMoments, NO_MOMENTS, roundConstant } from './moments.js';
import { compareText } from './natural-order.js';
import { MINIMUM_ROWS, type TargetStatistics } from './site-statistics.js';
import { formatTargetRule, type TargetRule } from './target-rule.js';

interface SiteTarget {
  readonly site: SiteEntry;
  readonly target: TargetStatistics;
}

/** Decides classes, their order and the output from what the sites tell; see `mergeStatistics` for the errors. */
export function mergeTarget(
  sites: readonly SiteEntry[],
  rule: TargetRule,
  output: TargetOutput['kind'] | undefined,
  missingMarkers: readonly MissingMarker[],
  warn: (warning: string) => void,
): TargetSpec {
  const targets = sites.map((site): SiteTarget => {
    const { target, columns } = site.statistics;
    if (target !== null) return { site, target };
    const names = columns.slice(0, 20).map(({ name }) => name);
    throw mismatch(
      site,
      `its data has no target column "${rule.column}" with at least ${MINIMUM_ROWS} values; it has ${names.join(', ') || 'no usable column'}`,
    );
  });
  const base = { rule, missingMarkers };
  if (output === 'regression') return { ...base, ...regression(targets, rule), reference: referenceOf(targets) };
  const tallies = classCounts(targets, rule);
  const binary = rule.comparison !== undefined || tallies.counts.size === 2;
  if (output !== undefined && (output === 'binary') !== binary) {
    throw new OctomilError(
      rule.comparison === undefined ? 'data_mismatch' : 'invalid_input',
      `the model's output is ${output}, but the target "${formatTargetRule(rule)}" has ${binary ? 2 : tallies.counts.size} classes (${[...tallies.counts.keys()].slice(0, 10).join(', ')})`,
    );
  }
  warnOfOneClass(targets, rule, warn);
  const classes = [...tallies.counts.keys()];
  return {
    ...base,
    output: binary ? { kind: 'binary' } : { kind: 'multiclass', classes: classes.length },
    classes: rule.comparison === undefined ? classes : [],
    values: tallies.values,
    mean: 0,
    deviation: 1,
    reference: referenceOf(targets, [...tallies.counts.values()]),
  };
}

/** @param classes rows by class over all sites, in class order */
function referenceOf(targets: readonly SiteTarget[], classes?: readonly number[]): TargetReference {
  const present = targets.reduce((sum, { target }) => sum + target.count, 0);
  const missing = targets.reduce((sum, { target }) => sum + target.missing, 0);
  const missingRatio = share(missing, present + missing);
  if (classes === undefined) return { missingRatio };
  const ratios = classes.map((count) => share(count, present));
  const known = ratios.reduce((sum, ratio) => sum + ratio, 0);
  return { missingRatio, classRatios: [...ratios, Number(Math.max(0, 1 - known).toFixed(3))] };
}

const share = (count: number, of: number) => Number(Math.min(1, of === 0 ? 0 : count / of).toFixed(3));

function regression(targets: readonly SiteTarget[], rule: TargetRule): Omit<TargetSpec, 'rule' | 'missingMarkers'> {
  if (rule.comparison !== undefined) {
    throw new OctomilError(
      'invalid_input',
      `the target "${formatTargetRule(rule)}" is a yes or no, but the model's output is regression; name the column alone`,
    );
  }
  const moments = targets.reduce((sum, { site, target }) => {
    if (target.moments !== null) return combineMoments(sum, target.moments);
    throw mismatch(site, `its target column "${rule.column}" does not hold numbers alone, which regression needs`);
  }, NO_MOMENTS);
  if (moments.deviation === 0) {
    throw new OctomilError(
      'data_mismatch',
      `the target "${rule.column}" is ${moments.mean} in every row of every site`,
    );
  }
  return {
    output: { kind: 'regression' },
    classes: [],
    values: 'number',
    mean: roundConstant(moments.mean),
    deviation: roundConstant(moments.deviation),
  };
}

/** Rows by class over all sites, in class order. */
function classCounts(targets: readonly SiteTarget[], rule: TargetRule) {
  for (const { site, target } of targets) {
    if (target.classes === null) {
      throw mismatch(
        site,
        `its target column "${rule.column}" has more than 32 different values; compare it ("${rule.column}>0") or choose the output regression`,
      );
    }
  }
  const values = classKind(targets, rule);
  const counts = new Map<string, number>();
  for (const { target } of targets) {
    for (const { value, count } of target.classes ?? []) {
      const name = values === 'boolean' ? booleanClass(value) : value;
      counts.set(name, (counts.get(name) ?? 0) + count);
    }
  }
  if (counts.size < 2) {
    const [only] = counts.keys();
    throw new OctomilError(
      'data_mismatch',
      `the target "${formatTargetRule(rule)}" has one class over all sites (${only ?? 'none has 10 rows'}); classes of fewer than ${MINIMUM_ROWS} rows at a site are not told. Choose another target or add sites`,
    );
  }
  const order = values === 'text' ? compareText : (a: string, b: string) => Number(a) - Number(b);
  return { values, counts: new Map([...counts].sort(([a], [b]) => order(a, b))) };
}

const BOOLEAN_TEXTS: ReadonlySet<string> = new Set([...TRUE_TEXTS, ...FALSE_TEXTS]);
const booleanClass = (value: string) => ((TRUE_TEXTS as readonly string[]).includes(value) ? '1' : '0');

function classKind(targets: readonly SiteTarget[], rule: TargetRule): TargetSpec['values'] {
  const isNumber = ({ target }: SiteTarget) => target.seen === 'integer' || target.seen === 'numeric';
  if (targets.every(isNumber)) return 'number';
  const isBoolean = ({ target }: SiteTarget) =>
    target.other === 0 && (target.classes ?? []).every(({ value }) => BOOLEAN_TEXTS.has(value));
  if (targets.every(isBoolean)) return 'boolean';
  const odd = targets.find((entry) => entry.target.seen === 'text');
  const number = targets.find(isNumber);
  if (odd !== undefined && number !== undefined) {
    throw mismatch(
      odd.site,
      `its target column "${rule.column}" holds text, but numbers at site "${number.site.name}"; use the same coding everywhere`,
    );
  }
  return 'text';
}

function warnOfOneClass(targets: readonly SiteTarget[], rule: TargetRule, warn: (warning: string) => void): void {
  for (const { site, target } of targets) {
    if ((target.classes?.length ?? 0) > 1 || target.other > 0) continue;
    warn(
      `site "${site.name}" has one class of the target "${formatTargetRule(rule)}" in at least ${MINIMUM_ROWS} rows; its local accuracy says little`,
    );
  }
}

export function mismatch(site: SiteEntry, why: string): OctomilError {
  return new OctomilError('data_mismatch', `site "${site.name}": ${why}`, { details: { deviceId: site.deviceId } });
}
