import { expect, test } from '@jest/globals';
import type { RolloutState } from '../database/tables.js';
import {
  allows,
  canMoveRollout,
  ROLLOUT_STATES,
  type RolloutAction,
  requireAction,
  statesBefore,
} from './rollout-machine.js';

const MOVES: readonly (readonly [RolloutState, RolloutState])[] = [
  ['draft', 'active'],
  ['draft', 'completed'],
  ['active', 'active'],
  ['active', 'paused'],
  ['active', 'completed'],
  ['active', 'rolling_back'],
  ['active', 'failed'],
  ['paused', 'active'],
  ['paused', 'rolling_back'],
  ['paused', 'failed'],
  ['completed', 'rolling_back'],
  ['rolling_back', 'rolled_back'],
];

test('exactly these moves are possible, of all pairs of states', () => {
  const possible = ROLLOUT_STATES.flatMap((from) =>
    ROLLOUT_STATES.filter((to) => canMoveRollout(from, to)).map((to) => `${from} → ${to}`),
  );
  expect(possible.sort()).toEqual(MOVES.map(([from, to]) => `${from} → ${to}`).sort());
  expect(ROLLOUT_STATES).toHaveLength(7);
});

const LEADS_TO: Readonly<Record<RolloutAction, readonly RolloutState[]>> = {
  start: ['active', 'completed'],
  advance: ['active', 'completed'],
  'update-percentage': ['active', 'completed'],
  pause: ['paused'],
  resume: ['active'],
  rollback: ['rolling_back'],
};

test.each(Object.entries(LEADS_TO))(
  '%s is refused in every state from which its move is impossible',
  (name, targets) => {
    const action = name as RolloutAction;
    for (const state of statesBefore(action)) {
      for (const target of targets)
        expect([state, target, canMoveRollout(state, target)]).toEqual([state, target, true]);
    }
    for (const state of ROLLOUT_STATES) {
      const attempt = () => requireAction(action, { id: 7, state });
      if (allows(action, state)) expect(attempt).not.toThrow();
      else expect(attempt).toThrow(`[wrong_state] rollout 7 is ${state}, so ${action} is refused`);
    }
  },
);
