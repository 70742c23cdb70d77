import type { RoundKind, RoundState } from '../database/tables.js';

/** Every move a round may make. What is not listed cannot happen: the stores compare the state they expect. */
export const ROUND_MOVES: Readonly<Record<RoundState, readonly RoundState[]>> = {
  scheduled: ['selecting', 'collecting', 'aggregating', 'failed', 'cancelled'],
  selecting: ['collecting', 'aggregating', 'insufficient_updates', 'failed', 'cancelled'],
  collecting: ['aggregating', 'insufficient_updates', 'failed', 'cancelled'],
  aggregating: ['completed', 'insufficient_updates', 'failed', 'cancelled'],
  completed: [],
  insufficient_updates: [],
  failed: [],
  cancelled: [],
};

export function canMove(from: RoundState, to: RoundState): boolean {
  return ROUND_MOVES[from].includes(to);
}

/** States in which somebody has something to do. */
export const ROUND_IN_PROGRESS: readonly RoundState[] = ['scheduled', 'selecting', 'collecting', 'aggregating'];

export function isInProgress(state: RoundState): boolean {
  return ROUND_IN_PROGRESS.includes(state);
}

export interface RoundTally {
  readonly kind: RoundKind;
  readonly minUpdates: number;
  /** Accepted updates or reports. */
  readonly accepted: number;
  /** Assignments somebody still works on. */
  readonly working: number;
  /** Assignments made so far, whatever became of them. */
  readonly asked: number;
  readonly deadlinePassed: boolean;
  /** The share of the deadline that a describe round gives its slowest site is over. Default false. */
  readonly patienceOver?: boolean;
}

export type CloseDecision = 'wait' | 'aggregate' | 'insufficient';

/**
 * Whether a collecting round ends.
 *
 * - `train`: with the update that reaches the quorum, or at the deadline.
 * - `describe`: when all asked have answered, refused or failed (each site's columns matter), or with a quorum when its
 *   patience is over; at the deadline, too, a quorum is needed.
 * - `evaluate`: when all asked have answered, or at the deadline; no answer at all is a result too.
 */
export function closeDecision(tally: RoundTally): CloseDecision {
  const quorum = tally.accepted >= tally.minUpdates;
  switch (tally.kind) {
    case 'train':
      if (quorum) return 'aggregate';
      return tally.deadlinePassed ? 'insufficient' : 'wait';
    case 'describe':
      if (quorum && (tally.working === 0 || tally.patienceOver)) return 'aggregate';
      if (!tally.deadlinePassed) return 'wait';
      return quorum ? 'aggregate' : 'insufficient';
    case 'evaluate':
      return tally.working === 0 || tally.deadlinePassed ? 'aggregate' : 'wait';
  }
}

/** A describe round that has its quorum waits no longer than this share of the deadline for the rest. */
export const DESCRIBE_PATIENCE_RATIO = 0.5;

/** What follows a round that did not reach its quorum: another attempt, or a pause that waits for a person. */
export function retryDecision(round: { retries: number }, maxRoundRetries: number): 'retry' | 'pause' {
  return round.retries < maxRoundRetries ? 'retry' : 'pause';
}

/** Devices asked at first: the quorum and its share of spares. */
export function targetDevices(minUpdates: number, overSelectionRatio: number): number {
  // Without the rounding, 10 × 1.1 would ask 12.
  return Math.max(minUpdates, Math.ceil(Math.round(minUpdates * overSelectionRatio * 1e6) / 1e6));
}

/** How many more devices to ask so that as many work on the round, or are done, as were meant to. */
export function topUpCount(round: { target: number; accepted: number; working: number }): number {
  return Math.max(0, round.target - round.accepted - round.working);
}

/**
 * How often one device may be asked in one round. A device that was lost and came back is asked again when no other
 * can be; one that fails each time must not keep the round busy.
 */
export const MAX_ASSIGNMENT_ATTEMPTS = 5;

/**
 * Weights after the cap on one participant's share of the sum: the largest cap `c` such that
 * `min(weight, c) ≤ share × Σ min(weight, c)`. With fewer than 1 ÷ share participants all weigh the same.
 */
export function capShares(weights: readonly number[], maxShareRatio: number): number[] {
  if (maxShareRatio >= 1 || weights.length < 2) return [...weights];
  const sorted = [...weights].sort((a, b) => a - b);
  const count = sorted.length;
  const smallest = sorted[0] ?? 0;
  if (maxShareRatio * count <= 1) return weights.map(() => smallest);
  // Suppose the k largest are capped at c: c = share × (rest + k × c), so c = share × rest ÷ (1 − share × k).
  let rest = sorted.reduce((sum, weight) => sum + weight, 0);
  for (let capped = 0; capped < count; capped += 1) {
    const largestUncapped = sorted[count - 1 - capped] ?? 0;
    const scale = 1 - maxShareRatio * capped;
    if (scale <= 0) break;
    const cap = (maxShareRatio * rest) / scale;
    if (largestUncapped <= cap) return weights.map((weight) => (capped === 0 ? weight : Math.min(weight, cap)));
    rest -= largestUncapped;
  }
  return weights.map(() => smallest);
}
