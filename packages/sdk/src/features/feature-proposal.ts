import { listOf } from '../training-session.js';
import { camelNames } from '../wire-names.js';

export const PROPOSAL_STATES = ['proposed', 'confirmed', 'superseded', 'rejected'] as const;
export type ProposalState = (typeof PROPOSAL_STATES)[number];

/** What a data scientist wishes for one column; all else follows from what the sites tell. */
export interface FeatureHint {
  /** Also takes in a column that is left out by default: an identifier, free text, a date. */
  readonly kind?: 'numeric' | 'boolean' | 'categorical' | 'ordinal' | 'datetime' | 'hashed' | 'image';
  /** Other names that sites have for it. */
  readonly aliases?: readonly string[];
  /** The unit to encode in. */
  readonly unit?: string;
  /** Units that sites may have, as factor (and offset) to `unit`. */
  readonly units?: Readonly<Record<string, number | { readonly factor: number; readonly offset?: number }>>;
  /** Ordinal: in their order. Categorical: the vocabulary. */
  readonly levels?: readonly (string | number)[];
  /** Hashed: inputs that its many values share. */
  readonly buckets?: number;
  /** Leave the column out. */
  readonly exclude?: boolean;
  /** What else a kind takes: docs/features.md. */
  readonly [field: string]: unknown;
}

/** By column. */
export type FeatureHints = Readonly<Record<string, FeatureHint>>;

/** How one column becomes numbers, and why. */
export interface ProposedColumn {
  readonly name: string;
  readonly kind: string;
  /** Numbers that it becomes. */
  readonly inputs: number;
  readonly unit: string | null;
  readonly aliases: readonly string[];
  readonly levels: readonly string[] | null;
  /** Two standard deviations around the mean. */
  readonly range: readonly [number, number] | null;
  /** 0 to 1, over the rows of all sites. */
  readonly missingRatio: number;
  /** By device identifier; null where the column is not there. */
  readonly missing: Readonly<Record<string, number | null>>;
  readonly why: string;
  readonly [field: string]: unknown;
}

/** A column that sites have and that is not trained on. */
export interface LeftOutColumn {
  readonly name: string;
  /** Such as `identifier`, `free_text`, `time`, `excluded`. */
  readonly reason: string;
  readonly why: string | null;
  readonly sites: readonly string[];
}

/** Feature spec as JSON: what `columns` of a proposal shows. It may be edited before it is confirmed. */
export interface FeatureSpecJson {
  readonly hash: string;
  readonly columns: readonly Readonly<Record<string, unknown>>[];
  readonly [field: string]: unknown;
}

/** One line of a list of proposals. */
export interface ProposalSummary {
  readonly id: string;
  readonly state: ProposalState;
  readonly federation: string;
  readonly model: string;
  readonly target: string;
  /** Hex SHA-256 of the spec: sessions and versions name it. */
  readonly specHash: string;
  /** A person changed it before confirming. */
  readonly edited: boolean;
  readonly columnCount: number;
  readonly createdAt: string;
  readonly confirmedAt: string | null;
  readonly [field: string]: unknown;
}

/** What the sites' columns would become. Members of the federation see it without sites and warnings. */
export interface FeatureProposal extends ProposalSummary {
  readonly columns: readonly ProposedColumn[];
  readonly excluded: readonly LeftOutColumn[];
  readonly warnings: readonly string[];
  readonly sites: readonly { readonly name: string; readonly rows: number }[];
  readonly spec: FeatureSpecJson;
  /** Once it is confirmed: `initial` where the model's newest version learned rows encoded otherwise; name it to train. */
  readonly baseVersion?: 'initial' | null;
}

/** How far a site's rows are from what the spec was made of. */
export interface SiteDriftReport {
  /** Measures by column, such as `shift` in standard deviations and `missingRatio`. */
  readonly columns: readonly Readonly<Record<string, string | number>>[];
  /** Where it differs from the others; empty where nothing stands out. A site that is unlike the others stays so. */
  readonly warnings: readonly string[];
  /** What has changed since its first report under these features; absent where this is the first. */
  readonly changed?: readonly string[];
  /** How many did not fit beside those of a round's other sites: what drifted most is kept. Absent where all did. */
  readonly leftOut?: { readonly columns: number; readonly warnings: number; readonly changed?: number };
}

export interface RoundDrift {
  readonly roundId: string;
  readonly roundNumber: number;
  readonly reportingSites: number;
  /** Sites that differ from the others. */
  readonly driftedSites: number;
  /** Those of them that had not reported before. */
  readonly newDriftedSites: number;
  /** Sites whose rows have changed since their first report. */
  readonly changedSites: number;
  /** By device identifier; empty for members of the federation that did not begin the session. */
  readonly sites: Readonly<Record<string, SiteDriftReport>>;
}

export interface DriftReport {
  readonly sessionId: string;
  readonly featureSpecHash: string | null;
  /** A site differs from the others in some round. */
  readonly drifted: boolean;
  /** A site has changed since its first report in some round. */
  readonly changed: boolean;
  /** Rounds that counted, oldest first. */
  readonly rounds: readonly RoundDrift[];
}

export function readProposal(value: unknown): FeatureProposal {
  const fields = camelNames(value as Record<string, unknown>);
  return {
    ...fields,
    columns: listOf(fields, 'columns').map((column) => camelNames(column as Record<string, unknown>)),
  } as unknown as FeatureProposal;
}

export function readSummary(value: unknown): ProposalSummary {
  return camelNames(value as Record<string, unknown>) as unknown as ProposalSummary;
}

export function readDrift(value: unknown): DriftReport {
  const fields = camelNames(value as Record<string, unknown>);
  return {
    ...fields,
    rounds: listOf(fields, 'rounds').map((round) => {
      const { sites, ...told } = camelNames(round as Record<string, unknown>);
      const reports = Object.entries((sites ?? {}) as Readonly<Record<string, Record<string, unknown>>>);
      return { ...told, sites: Object.fromEntries(reports.map(([site, report]) => [site, camelNames(report)])) };
    }),
  } as unknown as DriftReport;
}
