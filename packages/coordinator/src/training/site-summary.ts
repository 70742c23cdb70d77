import type { StoredDataSet, StoredPolicyRule, StoredSite } from '../devices/site-summary.js';

export type SiteFacts = StoredSite;
export type SiteDataSet = StoredDataSet;
export type SitePolicyRule = StoredPolicyRule;

/** `devices.site` as written; `undefined` for a device that never said hello: nothing is known of its data or policy. */
export function readSite(site: unknown): SiteFacts | undefined {
  if (typeof site !== 'object' || site === null) return undefined;
  const { dataSets, policyRules, paused } = site as Partial<StoredSite>;
  if (dataSets === undefined && policyRules === undefined) return undefined;
  return { dataSets: dataSets ?? [], policyRules: policyRules ?? [], paused: paused === true };
}
