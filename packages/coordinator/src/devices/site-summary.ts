import type { Capabilities, SiteSummary } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';

/** Hundreds of data sets and rules fit. */
const MAX_SITE_CHARACTERS = 256 * 1024;

/** `devices.capabilities`, as the last hello said. */
export interface StoredCapabilities {
  readonly platform: string;
  readonly architecture: string;
  readonly cpuCount: number;
  readonly memoryBytes: number;
  readonly nodeVersion: string;
  /** `tfjs`, `echo`. */
  readonly trainers: readonly string[];
  /** Best first. */
  readonly computeBackends: readonly string[];
  /** Those that need more of an agent than training: `scaffold`. */
  readonly strategies: readonly string[];
  /** What of tasks its agent knows beyond their first form. */
  readonly abilities: readonly string[];
}

export interface StoredDataSet {
  readonly name: string;
  /** Rounded down to tens; 0 when fewer than ten. */
  readonly rowCount: number;
  readonly format: string;
  /** SHA-256 of the content. */
  readonly digest: string;
  /** Why the source cannot be read; empty when it can. */
  readonly problem: string;
}

export interface StoredPolicyRule {
  readonly name: string;
  readonly federations: readonly string[];
  readonly models: readonly string[];
  readonly dataSets: readonly string[];
}

/** `devices.site`: what the site offers and allows, as its last hello or summary said. What no rule allows is refused. */
export interface StoredSite {
  readonly dataSets: readonly StoredDataSet[];
  readonly policyRules: readonly StoredPolicyRule[];
  /** Refuses everything for now. Absent: its agent does not say. */
  readonly paused?: boolean;
}

export function storedCapabilities(capabilities: Capabilities | undefined): StoredCapabilities {
  return {
    platform: capabilities?.platform ?? '',
    architecture: capabilities?.architecture ?? '',
    cpuCount: capabilities?.cpuCount ?? 0,
    memoryBytes: Number(capabilities?.memoryBytes ?? 0n),
    nodeVersion: capabilities?.nodeVersion ?? '',
    trainers: capabilities?.trainers ?? [],
    computeBackends: capabilities?.computeBackends ?? [],
    strategies: capabilities?.strategies ?? [],
    abilities: capabilities?.abilities ?? [],
  };
}

/**
 * @throws OctomilError `too_large`: it is kept in memory for every assignment under way
 */
export function storedSite(site: SiteSummary | undefined): StoredSite {
  const stored = {
    dataSets: (site?.dataSets ?? []).map(({ name, rowCount, format, digest, problem }) => ({
      name,
      rowCount: Number(rowCount),
      format,
      digest,
      problem,
    })),
    policyRules: (site?.policyRules ?? []).map(({ name, federations, models, dataSets }) => ({
      name,
      federations,
      models,
      dataSets,
    })),
    ...(site?.paused === undefined ? {} : { paused: site.paused }),
  };
  const characters = JSON.stringify(stored).length;
  if (characters <= MAX_SITE_CHARACTERS) return stored;
  throw new OctomilError(
    'too_large',
    `the site summary has ${characters} characters, more than ${MAX_SITE_CHARACTERS}; name fewer data sets or policy rules`,
    { details: { characters, limit: MAX_SITE_CHARACTERS } },
  );
}
