import { randomUUID } from 'node:crypto';
import type { RoundFacts } from './round-facts.js';
import { targetDevices } from './round-machine.js';
import type { NextRound } from './round-store.js';
import { roundSeed } from './seeds.js';
import type { SessionConfig } from './session-config.js';
import { nextStep, type RoundStep, type SessionPlan } from './session-machine.js';

export function planOf(config: SessionConfig & { describes: boolean; evaluates: boolean }): SessionPlan {
  return { rounds: config.rounds, describes: config.describes, evaluates: config.evaluates, dryRun: config.dryRun };
}

/** The row of a round's first attempt. */
export function firstAttempt(config: SessionConfig, step: RoundStep, baseCheckpointId: string | null): NextRound {
  const minUpdates = config.dryRun ? 1 : config.minUpdates;
  return {
    id: randomUUID(),
    kind: step.kind,
    number: step.number,
    attempt: 1,
    retries: 0,
    seed: roundSeed(config.seed, step.number),
    baseCheckpointId,
    minUpdates,
    targetDevices: step.kind === 'train' ? targetDevices(minUpdates, config.overSelectionRatio) : minUpdates,
  };
}

/** The round after this one, from the checkpoint it made; `undefined` when the session is complete. */
export function roundAfter(facts: RoundFacts, checkpointId: string | null): NextRound | undefined {
  const step = nextStep(planOf(facts.config), facts);
  return step === undefined ? undefined : firstAttempt(facts.config, step, checkpointId);
}

/** Another attempt of the same round. @param retries 0 when a person asked for it */
export function anotherAttempt(
  round: Pick<RoundFacts, 'kind' | 'number' | 'attempt' | 'seed' | 'minUpdates' | 'targetDevices'>,
  baseCheckpointId: string | null,
  retries: number,
): NextRound {
  return {
    id: randomUUID(),
    kind: round.kind,
    number: round.number,
    attempt: round.attempt + 1,
    retries,
    seed: round.seed,
    baseCheckpointId,
    minUpdates: round.minUpdates,
    targetDevices: round.targetDevices,
  };
}
