import type { JsonObject } from '../database/tables.js';
import type { RoundRow, SessionRow } from './session-store.js';
import { roundView, sessionView } from './views.js';

/**
 * A session as the other members of its federation see it: where it stands and how good the model is overall. What names
 * single sites (their metrics, why one refused) is for the organization that began the session.
 */
export function memberSessionView(row: SessionRow): JsonObject {
  const { report: _, ...view } = sessionView(row);
  return { ...view, ...withoutReasons(view), metrics: overallOnly(view['metrics']), created_by: null };
}

/** A round, with the same left out; its assignments are filtered by whose devices they are. */
export function memberRoundView(row: RoundRow, rounds: readonly RoundRow[]): JsonObject {
  const view = roundView(row, rounds);
  return { ...view, ...withoutReasons(view), metrics: overallOnly(view['metrics']), details: {}, drift: null };
}

/** How many sites drifted or changed, and not which or how. */
export function memberDriftRound(round: JsonObject): JsonObject {
  return { ...round, sites: {} };
}

function overallOnly(metrics: unknown): JsonObject | null {
  return metrics === null || metrics === undefined
    ? null
    : { overall: (metrics as { overall: unknown }).overall, sites: {} };
}

/** Codes stay: they are of a closed set. Reasons name sites. */
function withoutReasons(view: JsonObject): JsonObject {
  const wait = view['wait'] as JsonObject | null;
  return { reason: null, wait: wait === null ? null : { ...wait, owner: null, reason: null } };
}
