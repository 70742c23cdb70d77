import { create } from '@bufbuild/protobuf';
import { type Assignment, AssignmentSchema } from '@octomil/proto';
import { parseTargetRule } from '@octomil/shared/features';
import { imageSizeOf } from '@octomil/shared/models';
import { isControlled } from '../aggregation/strategies.js';
import type { AssignmentRow } from './assignment-store.js';
import { serverControl } from './control-variates.js';
import type { RoundFacts } from './round-facts.js';
import { roundSeed } from './seeds.js';

/**
 * What the device is sent. The task's fields are those of the trainer's tasks.
 *
 * @param lastFolded of a controlled strategy: `AssignmentStore.lastFolded`
 */
export function assignmentMessage(facts: RoundFacts, row: AssignmentRow, lastFolded?: string): Assignment {
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
    taskJson: isControlledTraining(facts) ? controlledTaskJson(facts, lastFolded) : taskJson(facts),
  });
}

export function isControlledTraining({ kind, config }: RoundFacts): boolean {
  return kind === 'train' && isControlled(config.strategy);
}

/** With what differs from device to device: which control variate of its own the server counts on. */
function controlledTaskJson(facts: RoundFacts, lastFolded: string | undefined): string {
  const server = serverControl(facts);
  const controlVariates = {
    ...(server === undefined ? {} : { server: { sha256: server.sha256, sizeBytes: server.sizeBytes } }),
    ...(lastFolded === undefined ? {} : { ofUpdate: lastFolded }),
  };
  return JSON.stringify({ ...task(facts), controlVariates });
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
  // Sites with tables take no notice.
  const imagePart = ({ architecture }: typeof config): object => {
    const imageShape = architecture === null ? undefined : imageSizeOf(architecture);
    return imageShape === undefined ? {} : { imageShape };
  };
  if (kind === 'describe') {
    return {
      target: parseTargetRule(config.target ?? ''),
      missingMarkers: config.missingMarkers,
      exclude: config.exclude,
      ...(config.hints === undefined ? {} : { hints: config.hints }),
      ...imagePart(config),
    };
  }
  if (config.trainer === 'echo') return { trainer: 'echo' };
  const { shareRatio, entityColumn } = config.holdout;
  const shared = {
    architecture: config.architecture,
    featureSpec,
    holdout: { salt: config.holdoutSalt, shareRatio, ...(entityColumn === null ? {} : { entityColumn }) },
    // An evaluation too: a site's own layers are part of what it would use.
    ...(config.personalization === undefined ? {} : { personalization: config.personalization }),
  };
  if (kind === 'evaluate') return shared;
  return {
    trainer: config.trainer,
    ...shared,
    options: { ...config.local, seed: roundSeed(config.local.seed, number) },
  };
}
