import type { DriftReport, FeatureProposal, ProposalSummary } from '@octomil/sdk';
import { table, timeText } from './output.js';
import { quoted } from './quoted.js';

/** A proposal for people: what each column becomes, where it is missing, what is left out, and what to do next. */
export async function proposalText(proposal: FeatureProposal, file: string | undefined): Promise<string> {
  const { columns, excluded, warnings } = proposal;
  const sites = [...new Set(columns.flatMap(({ missing }) => Object.keys(missing)))].sort();
  const head = `Proposal ${proposal.id}: ${proposal.state}${proposal.edited ? ', as edited' : ''}\n${proposal.model} in ${proposal.federation}, target ${proposal.target}; ${columns.length} columns, spec ${proposal.specHash.slice(0, 12)}`;
  const used = await table(columns, [
    { title: 'Column', value: (column) => column.name },
    { title: 'Kind', value: (column) => column.kind },
    { title: 'Unit', value: (column) => column.unit },
    { title: 'Values', value: (column) => valuesText(column) },
    { title: 'Inputs', value: (column) => column.inputs, align: 'right' },
    // Missing: the members of a federation see no sites.
    ...(sites.length === 0
      ? [
          {
            title: 'Missing',
            value: (column: FeatureProposal['columns'][number]) => share(column.missingRatio),
            align: 'right' as const,
          },
        ]
      : sites.map((site) => ({
          title: `Missing at ${site}`,
          value: (column: FeatureProposal['columns'][number]) => missingText(column.missing[site]),
          align: 'right' as const,
        }))),
    { title: 'Why', value: (column) => column.why },
  ]);
  const parts = [head, used];
  if (excluded.length > 0) {
    parts.push(
      `Left out:\n${await table(excluded, [
        { title: 'Column', value: (column) => column.name },
        { title: 'Reason', value: (column) => column.reason },
        { title: 'Why', value: (column) => column.why },
        { title: 'Sites', value: (column) => column.sites.join(', ') || null },
      ])}`,
    );
  }
  if (warnings.length > 0) parts.push(warnings.map((warning) => `- ${warning}`).join('\n'));
  if (proposal.state === 'proposed') {
    parts.push(
      file === undefined
        ? `octomil features confirm ${proposal.id}`
        : `Edit ${file} (spec.columns) or not, then: octomil features confirm ${quoted(file.includes('/') ? file : `./${file}`)}`,
    );
  }
  return parts.join('\n\n');
}

export function proposalsTable(rows: readonly ProposalSummary[]): Promise<string> {
  return table(
    rows,
    [
      { title: 'ID', value: (row) => row.id },
      { title: 'Federation', value: (row) => row.federation },
      { title: 'Model', value: (row) => row.model },
      { title: 'Target', value: (row) => row.target },
      { title: 'State', value: (row) => `${row.state}${row.edited ? ' (edited)' : ''}` },
      { title: 'Columns', value: (row) => row.columnCount, align: 'right' },
      { title: 'Spec', value: (row) => row.specHash.slice(0, 12) },
      { title: 'Made', value: (row) => timeText(row.createdAt) },
    ],
    'There are none; "octomil features propose" makes one.',
  );
}

interface DriftRow {
  readonly site: string;
  readonly kind: string;
  readonly what: string;
  readonly rounds: number[];
}

/** Everything that stands out, each with the rounds in which it did; without anything, that there is none. */
export async function driftText(report: DriftReport): Promise<string> {
  const rows = new Map<string, DriftRow>();
  for (const { roundNumber, sites } of report.rounds) {
    for (const [site, { warnings, changed = [], leftOut }] of Object.entries(sites)) {
      const told = [
        ...withMore(changed, leftOut?.changed).map((what) => ({ site, kind: 'changed', what })),
        ...withMore(warnings, leftOut?.warnings).map((what) => ({ site, kind: 'unlike the others', what })),
      ];
      for (const row of told) {
        const key = JSON.stringify(row);
        const known = rows.get(key) ?? { ...row, rounds: [] };
        known.rounds.push(roundNumber);
        rows.set(key, known);
      }
    }
  }
  if (rows.size > 0) {
    return table(
      [...rows.values()],
      [
        { title: 'Rounds', value: (row) => roundsText(row.rounds), align: 'right' },
        { title: 'Site', value: (row) => row.site },
        { title: 'Drift', value: (row) => row.kind },
        { title: 'What', value: (row) => row.what },
      ],
    );
  }
  return driftLine(report) ?? (report.rounds.length === 0 ? 'No round has counted yet.' : 'Nothing drifts.');
}

/** `1–3, 5` */
function roundsText(rounds: readonly number[]): string {
  const spans: { first: number; last: number }[] = [];
  for (const round of rounds) {
    const span = spans.at(-1);
    if (span !== undefined && round <= span.last + 1) span.last = round;
    else spans.push({ first: round, last: round });
  }
  return spans.map(({ first, last }) => (first === last ? String(first) : `${first}–${last}`)).join(', ');
}

function withMore(texts: readonly string[], more = 0): readonly string[] {
  return more === 0 ? texts : [...texts, `and ${more} more, which the coordinator has not kept`];
}

/** One line where rows have changed by the latest round that counted, else where sites that reported first were unlike the others. */
export function driftLine({ rounds, sessionId }: DriftReport): string | undefined {
  const latest = rounds.findLast(({ reportingSites }) => reportingSites > 0);
  const unlike = rounds.findLast(({ newDriftedSites }) => newDriftedSites > 0);
  const shown = `octomil features drift ${sessionId}`;
  if (latest !== undefined && latest.changedSites > 0) {
    return `Rows have changed at ${latest.changedSites} of ${latest.reportingSites} sites in round ${latest.roundNumber}: ${shown}`;
  }
  if (unlike === undefined) return undefined;
  return `Rows unlike the others' at ${unlike.newDriftedSites} of ${unlike.reportingSites} sites in round ${unlike.roundNumber}: ${shown}`;
}

const MAX_LEVELS_SHOWN = 6;

function valuesText({ levels, range }: FeatureProposal['columns'][number]): string | null {
  if (levels !== null) {
    const more = levels.length - MAX_LEVELS_SHOWN;
    return `${levels.slice(0, MAX_LEVELS_SHOWN).join(', ')}${more > 0 ? `, … (${more} more)` : ''}`;
  }
  return range === null ? null : `${range[0]} … ${range[1]}`;
}

/** Also whether it is there at all. */
function missingText(ratio: number | null | undefined): string | null {
  return ratio === null ? 'all' : ratio === undefined ? null : share(ratio);
}

function share(ratio: number): string {
  return ratio > 0 && ratio < 0.005 ? '<1 %' : `${Math.round(ratio * 100)} %`;
}
