import { OctomilError } from '@octomil/shared/errors';
import type { RolloutState } from '../database/tables.js';

/**
 * Every move a rollout may make. `active → active` is a growth of its share. What is rolled back stays so: to try the
 * version again is a new rollout, so that the record of the first one is kept.
 */
export const ROLLOUT_MOVES: Readonly<Record<RolloutState, readonly RolloutState[]>> = {
  draft: ['active', 'completed'],
  active: ['active', 'paused', 'completed', 'rolling_back', 'failed'],
  paused: ['active', 'rolling_back', 'failed'],
  completed: ['rolling_back'],
  rolling_back: ['rolled_back'],
  rolled_back: [],
  failed: [],
};

export const ROLLOUT_STATES = Object.keys(ROLLOUT_MOVES) as readonly RolloutState[];

/** Of these a model has at most one. */
export const UNSETTLED_STATES = ['active', 'paused', 'rolling_back'] as const satisfies readonly RolloutState[];

/** What people ask of a rollout. */
export type RolloutAction = 'start' | 'advance' | 'pause' | 'resume' | 'update-percentage' | 'rollback';

const ALLOWED: Readonly<Record<RolloutAction, readonly RolloutState[]>> = {
  start: ['draft'],
  advance: ['active'],
  pause: ['active'],
  resume: ['paused'],
  'update-percentage': ['active'],
  rollback: ['active', 'paused', 'completed'],
};

const WHAT_TO_DO: Readonly<Record<RolloutState, string>> = {
  draft: 'start it first',
  active: 'it is running already',
  paused: 'resume it first',
  completed: 'create a new rollout to change what devices run, or roll this one back',
  rolling_back: 'create a new rollout once it is rolled back',
  rolled_back: 'create a new rollout',
  failed: 'create a new rollout',
};

export function canMoveRollout(from: RolloutState, to: RolloutState): boolean {
  return ROLLOUT_MOVES[from].includes(to);
}

/** Whether the states an action starts from include this one. */
export function allows(action: RolloutAction, state: RolloutState): boolean {
  return ALLOWED[action].includes(state);
}

export function statesBefore(action: RolloutAction): readonly RolloutState[] {
  return ALLOWED[action];
}

/** @throws OctomilError `wrong_state` naming the state */
export function requireAction(
  action: RolloutAction,
  rollout: { readonly id: number; readonly state: RolloutState },
): void {
  if (allows(action, rollout.state)) return;
  throw wrongState(action, rollout);
}

export function wrongState(
  action: RolloutAction | 'delete',
  { id, state }: { readonly id: number; readonly state: RolloutState },
): OctomilError {
  return new OctomilError('wrong_state', `rollout ${id} is ${state}, so ${action} is refused; ${WHAT_TO_DO[state]}`, {
    details: { rollout_id: id, status: state },
  });
}
