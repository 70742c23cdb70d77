import type { RoundKind, SessionState } from '../database/tables.js';

/** Every move a session may make. */
export const SESSION_MOVES: Readonly<Record<SessionState, readonly SessionState[]>> = {
  running: ['paused', 'completed', 'failed', 'cancelled'],
  paused: ['running', 'cancelled', 'failed'],
  completed: [],
  failed: [],
  cancelled: [],
};

export function canMoveSession(from: SessionState, to: SessionState): boolean {
  return SESSION_MOVES[from].includes(to);
}

export function isOver(state: SessionState): boolean {
  return SESSION_MOVES[state].length === 0;
}

export interface SessionPlan {
  readonly rounds: number;
  /** The base has no feature spec yet, so the sites are asked for their columns first. */
  readonly describes: boolean;
  /** The result is evaluated at the sites. */
  readonly evaluates: boolean;
  readonly dryRun: boolean;
}

export interface RoundStep {
  readonly kind: RoundKind;
  readonly number: number;
}

export function firstStep(plan: SessionPlan): RoundStep {
  return plan.describes || plan.dryRun ? { kind: 'describe', number: 0 } : { kind: 'train', number: 1 };
}

/** The round after `step`, or `undefined` when the session is complete. */
export function nextStep(plan: SessionPlan, step: RoundStep): RoundStep | undefined {
  if (plan.dryRun || step.kind === 'evaluate') return undefined;
  if (step.number < plan.rounds) return { kind: 'train', number: step.number + 1 };
  return plan.evaluates ? { kind: 'evaluate', number: plan.rounds + 1 } : undefined;
}
