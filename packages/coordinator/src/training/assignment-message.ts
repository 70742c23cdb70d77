import { create } from '@bufbuild/protobuf';
import { type Assignment, AssignmentSchema } from '@octomil/proto';
import { parseTargetRule } from '@octomil/shared/features';
import type { AssignmentRow } from './assignment-store.js';
import type { RoundFacts } from './round-facts.js';
import { roundSeed } from './seeds.js';

/** What the device is sent. The task's fields are those of the trainer's tasks. */
export function assignmentMessage(facts: RoundFacts, row: AssignmentRow): Assignment {
  const { config, base } = facts;
  return create(AssignmentSchema, {
    ref: { assignmentId: row.id, attempt: row.attempt },
    kind: facts.kind,
    sessionId: facts.sessionId,
    roundId: facts.id,
    roundNumber: facts.number,
    totalRounds: config.rounds,
    federation: facts.federation.name,
    modelName: facts.model.name,
    dataSet: config.dataSet,
    deadlineMs: BigInt(Math.max(0, Math.floor(row.deadlineMs))),
    noProgressMs: BigInt(Math.round(config.noProgressSeconds * 1_000)),
    ...(base === undefined ? {} : { base: { sha256: base.sha256, sizeBytes: BigInt(base.sizeBytes) } }),
    updateFormat: config.updateFormat,
    taskJson: taskJson(facts),
  });
}

/** Same for every device of a round, and a feature spec may be long. */
const tasks = new WeakMap<RoundFacts, string>();

function taskJson(facts: RoundFacts): string {
  const known = tasks.get(facts);
  if (known !== undefined) return known;
  const text = JSON.stringify(task(facts));
  tasks.set(facts, text);
  return text;
}

function task({ kind, number, config, featureSpec }: RoundFacts): object {
  if (kind === 'describe') {
    return {
      target: parseTargetRule(config.target ?? ''),
      missingMarkers: config.missingMarkers,
      exclude: config.exclude,
      ...(config.hints === undefined ? {} : { hints: config.hints }),
    };
  }
  if (config.trainer === 'echo') return { trainer: 'echo' };
  const { shareRatio, entityColumn } = config.holdout;
  const shared = {
    architecture: config.architecture,
    featureSpec,
    holdout: { salt: config.holdoutSalt, shareRatio, ...(entityColumn === null ? {} : { entityColumn }) },
  };
  if (kind === 'evaluate') return shared;
  return {
    trainer: config.trainer,
    ...shared,
    options: { ...config.local, seed: roundSeed(config.local.seed, number) },
  };
}
