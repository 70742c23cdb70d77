import type { JsonObject } from '../database/tables.js';
import { describeColumns, describeLeftOut } from './describe-columns.js';
import type { Proposal, ProposalLine } from './proposal-store.js';

/** A proposal as its owner sees it. `spec` is what may be edited; everything beside it explains it. */
export function proposalJson(proposal: Proposal): JsonObject {
  const { spec, sites, warnings, request } = proposal;
  return {
    ...summaryJson(proposal),
    request,
    sites: sites.map(({ name, statistics }) => ({ name, rows: statistics.rows })),
    warnings,
    columns: describeColumns(spec, sites, request),
    excluded: describeLeftOut(spec, sites, warnings, request),
    created_by: proposal.createdBy,
    confirmed_by: proposal.confirmedBy,
    ended_by: proposal.endedBy,
    reason: proposal.reason,
    spec,
  };
}

/** One line of a list. */
export function summaryJson(proposal: ProposalLine): JsonObject {
  const { federation, model, specHash } = proposal;
  return {
    id: proposal.id,
    state: proposal.state,
    federation_id: federation.id,
    federation: federation.name,
    model_id: model.id,
    model: model.name,
    target: proposal.target,
    spec_hash: specHash,
    proposed_hash: proposal.proposedHash,
    edited: specHash !== proposal.proposedHash,
    column_count: proposal.columnCount,
    session_id: proposal.sessionId,
    created_at: proposal.createdAt.toISOString(),
    confirmed_at: proposal.confirmedAt?.toISOString() ?? null,
    ended_at: proposal.endedAt?.toISOString() ?? null,
  };
}

/** As other members of the federation see it: what rows become, and nothing of single sites or people. */
export function memberProposalJson(proposal: Proposal): JsonObject {
  const { spec, sites, warnings, request } = proposal;
  return {
    ...summaryJson(proposal),
    request: {},
    sites: [],
    // They name sites.
    warnings: [],
    columns: describeColumns(spec, sites, request).map((column) => ({ ...column, missing: {} })),
    excluded: describeLeftOut(spec, sites, warnings, request).map(({ name, reason }) => ({
      name,
      reason,
      why: null,
      sites: [],
    })),
    created_by: null,
    confirmed_by: null,
    ended_by: null,
    reason: null,
    spec,
  };
}
