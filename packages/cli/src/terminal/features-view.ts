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

/** Every warning of every round; without one, that there is none. */
export async function driftText(report: DriftReport): Promise<string> {
  const rows = report.rounds.flatMap((round) =>
    Object.entries(round.sites).flatMap(([site, { warnings, leftOut }]) => {
      const more = leftOut?.warnings ?? 0;
      const said = more === 0 ? warnings : [...warnings, `and ${more} more, which the coordinator has not kept`];
      return said.map((warning) => ({ round: round.roundNumber, site, warning }));
    }),
  );
  if (rows.length > 0) {
    return table(rows, [
      { title: 'Round', value: (row) => row.round, align: 'right' },
      { title: 'Site', value: (row) => row.site },
      { title: 'Drift', value: (row) => row.warning },
    ]);
  }
  return driftLine(report) ?? (report.rounds.length === 0 ? 'No round has counted yet.' : 'Nothing drifts.');
}

/** One line where something drifts in the latest round that counted. */
export function driftLine({ rounds, sessionId }: DriftReport): string | undefined {
  const latest = rounds.findLast(({ reportingSites }) => reportingSites > 0);
  if (latest === undefined || latest.driftedSites === 0) return undefined;
  return `Drift at ${latest.driftedSites} of ${latest.reportingSites} sites in round ${latest.roundNumber}: octomil features drift ${sessionId}`;
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
