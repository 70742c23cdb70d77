import { isNamed } from '@octomil/shared/policy';
import { isControlled } from '../aggregation/strategies.js';
import { readSite, type SiteDataSet, type SiteFacts } from './site-summary.js';

/** A device as selection sees it. */
export interface CandidateDevice {
  readonly id: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly capabilities: Readonly<Record<string, unknown>>;
  readonly site: unknown;
}

/** What a session asks of a device. */
export interface Demand {
  readonly federation: { readonly id: string; readonly name: string };
  readonly model: { readonly id: string; readonly name: string };
  /** Empty: the site's only data set, or the one named "default". */
  readonly dataSet: string;
  readonly trainer: string;
  /** Default: one that needs nothing but training. */
  readonly strategy?: string;
  /** What of the tasks an agent must know: see `neededAbilities`. Default: nothing beyond their first form. */
  readonly abilities?: readonly string[];
  /** Labels that must be equal. */
  readonly selector: Readonly<Record<string, string>>;
}

export type Eligibility =
  | { readonly verdict: 'eligible'; readonly dataSet: SiteDataSet | undefined }
  /** Never connected, so nothing is known; it may turn out either way. */
  | { readonly verdict: 'unknown' }
  /** `rule` names what stands in the way: `paused`, `policy`, `data_set`, `selector`, `trainer`, `strategy` or `ability`. */
  | { readonly verdict: 'refused'; readonly rule: string; readonly reason: string };

/**
 * Whether a device may be asked, judged by what it declared. The site judges again by its own policy: this is only to
 * avoid asking in vain, and to say beforehand who would refuse and why.
 */
export function judge(device: CandidateDevice, demand: Demand): Eligibility {
  for (const [label, wanted] of Object.entries(demand.selector)) {
    const actual = device.labels[label];
    if (actual !== wanted) {
      return refused(
        'selector',
        `its label ${label} is ${actual === undefined ? 'not set' : `"${actual}"`}, not "${wanted}"`,
      );
    }
  }
  const trainers = device.capabilities['trainers'];
  if (Array.isArray(trainers) && trainers.length > 0 && !trainers.includes(demand.trainer)) {
    return refused('trainer', `it has no trainer "${demand.trainer}" (it has ${trainers.join(', ')})`);
  }
  const site = readSite(device.site);
  if (site === undefined) return { verdict: 'unknown' };
  if (site.paused === true) {
    return refused('paused', 'it is paused: its owner ends that with octomil agent resume, or with paused: false');
  }
  const strategies = device.capabilities['strategies'];
  if (isControlled(demand.strategy ?? '') && !(Array.isArray(strategies) && strategies.includes(demand.strategy))) {
    return refused('strategy', `its agent does not know the strategy "${demand.strategy}"; update the agent`);
  }
  const abilities = device.capabilities['abilities'];
  const unknown = (demand.abilities ?? []).filter((name) => !(Array.isArray(abilities) && abilities.includes(name)));
  if (unknown.length > 0) return refused('ability', `its agent does not know ${unknown.join(', ')}; update the agent`);
  // The echo trainer reads no data, so it needs neither a data set nor a rule that names one.
  const dataSet = demand.trainer === 'echo' ? undefined : findDataSet(site, demand.dataSet);
  if (typeof dataSet === 'string') return refused('data_set', dataSet);
  const rule = site.policyRules.find(
    (candidate) =>
      isNamed(candidate.federations, demand.federation.name, demand.federation.id) &&
      isNamed(candidate.models, demand.model.name, demand.model.id) &&
      (dataSet === undefined || isNamed(candidate.dataSets, dataSet.name)),
  );
  if (rule === undefined) return refused('policy', missingRule(site, demand, dataSet));
  return { verdict: 'eligible', dataSet };
}

/** The data set an assignment without a name means, or why there is none. */
export function findDataSet(site: SiteFacts, name: string): SiteDataSet | string {
  const names = site.dataSets.map((item) => `"${item.name}"`).join(', ');
  const only = site.dataSets.length === 1 ? site.dataSets[0] : undefined;
  const found =
    site.dataSets.find((item) => item.name === (name === '' ? 'default' : name)) ?? (name === '' ? only : undefined);
  if (found === undefined) {
    if (site.dataSets.length === 0) return 'it offers no data set';
    return name === ''
      ? `it offers several data sets (${names}) and none is named "default"; name one with data_set`
      : `it has no data set "${name}" (it has ${names})`;
  }
  return found.problem === '' ? found : `its data set "${found.name}" cannot be read: ${found.problem}`;
}

function missingRule(site: SiteFacts, demand: Demand, dataSet: SiteDataSet | undefined): string {
  const wanted = `federation "${demand.federation.name}", model "${demand.model.name}"${dataSet === undefined ? '' : `, data set "${dataSet.name}"`}`;
  const existing = site.policyRules.map((rule) => `"${rule.name}"`).join(', ');
  return `no rule of its policy allows ${wanted}${existing === '' ? ' (it has no rules)' : ` (its rules are ${existing})`}`;
}

function refused(rule: string, reason: string): Eligibility {
  return { verdict: 'refused', rule, reason };
}
