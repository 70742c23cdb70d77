import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { ObjectStore } from '@octomil/shared/storage';
import { strategyByName } from '../aggregation/strategies.js';
import type { JsonObject } from '../database/tables.js';
import { controlStep } from './control-variates.js';
import type { TrainingAggregator } from './ports.js';
import type { RoundFacts } from './round-facts.js';
import { capShares } from './round-machine.js';
import { trainingMetrics } from './round-metrics.js';
import type { AcceptedAnswer, NewCheckpoint } from './round-store.js';

export interface AggregationDependencies {
  readonly objects: ObjectStore;
  readonly aggregator: TrainingAggregator;
  /** Devices that could take part in a round, up to `MAX_POPULATION`. */
  readonly population: (facts: RoundFacts) => Promise<number>;
  /** Where aggregation writes before the store takes over; best on the store's own file system. */
  readonly temporaryFolder: () => Promise<string>;
}

/**
 * Turns a train round's updates into its checkpoint, whose objects are stored; no row counts on them yet.
 *
 * @param answers in device order, which decides the bytes
 * @throws `cancelled` by the signal; whatever aggregation or the store throw
 */
export async function aggregateRound(
  on: AggregationDependencies,
  facts: RoundFacts,
  answers: readonly AcceptedAnswer[],
  signal: AbortSignal,
): Promise<{ readonly checkpoint: NewCheckpoint; readonly metrics: JsonObject }> {
  const { config, base } = facts;
  if (base === undefined) throw new OctomilError('internal', `round ${facts.id} has no base checkpoint`);
  const { objects, aggregator, temporaryFolder } = on;
  const { weighting, controlled } = strategyByName(config.strategy, config.strategyOptions);
  const capped = capShares(
    answers.map(({ weight }) => (weighting === 'equal' ? 1 : weight)),
    config.maxShareRatio,
  );
  const step = controlled ? controlStep(answers, await on.population(facts), base) : undefined;
  const opened: Promise<{ path: string; release(): Promise<void> }>[] = [];
  const open = async (key: string): Promise<string> => {
    const file = objects.localFile(key);
    opened.push(file);
    return (await file).path;
  };
  const written: string[] = [];
  try {
    const name = randomUUID();
    const openUpdate = async ({ objectKey, deviceName }: AcceptedAnswer, place: number) => {
      if (objectKey === null) throw new OctomilError('internal', `the update of ${deviceName} has no object`);
      return { path: await open(objectKey), weight: capped[place] ?? 0 };
    };
    const [folder, basePath, statePath, updates] = await Promise.all([
      temporaryFolder(),
      open(base.objectKey),
      facts.number > 1 && base.stateKey !== null ? open(base.stateKey) : undefined,
      Promise.all(answers.map(openUpdate)),
    ]);
    const outputPath = join(folder, `${name}.checkpoint`);
    const stateOutputPath = join(folder, `${name}.state`);
    written.push(outputPath, stateOutputPath);
    const result = await aggregator.aggregate(
      {
        basePath,
        updates,
        updateFormat: config.updateFormat,
        strategy: config.strategy,
        options: config.strategyOptions,
        round: facts.number,
        ...(statePath === undefined ? {} : { statePath }),
        ...(step === undefined ? {} : { control: step.shares }),
        outputPath,
        stateOutputPath,
      },
      signal,
    );
    signal.throwIfAborted();
    const objectKey = `checkpoints/${result.checkpoint.sha256}`;
    await objects.putFile(objectKey, result.checkpoint.path);
    const stateKey = result.state === null ? null : `states/${result.state.sha256}`;
    if (result.state !== null && stateKey !== null) await objects.putFile(stateKey, result.state.path);
    const control =
      step === undefined || result.state === null
        ? {}
        : {
            control: {
              sha256: result.state.sha256,
              sizeBytes: result.state.sizeBytes,
              population: step.population,
              ...(result.controlNormL2 === undefined ? {} : { normL2: result.controlNormL2 }),
            },
          };
    const checkpoint: NewCheckpoint = {
      id: randomUUID(),
      organizationId: facts.organizationId,
      baseCheckpointId: base.id,
      ...control,
      objectKey,
      sha256: result.checkpoint.sha256,
      sizeBytes: result.checkpoint.sizeBytes,
      strategy: config.strategy,
      stateKey,
      stateSha256: result.state?.sha256 ?? null,
      lineage: {
        base_sha256: base.sha256,
        round_number: facts.number,
        strategy: config.strategy,
        strategy_options: config.strategyOptions,
        update_format: config.updateFormat,
        backend: result.backend,
        ...control,
        feature_spec_hash: facts.featureSpec?.hash ?? null,
        participants: answers.map(({ deviceId, deviceName, sha256, sampleCount }, place) => ({
          device_id: deviceId,
          device: deviceName,
          update_sha256: sha256,
          sample_count: sampleCount,
          weight: capped[place] ?? 0,
        })),
      },
    };
    const metrics = trainingMetrics(
      answers.map(({ deviceName, metrics, sampleCount }) => ({ name: deviceName, metrics, sampleCount })),
    );
    const recorded =
      step === undefined
        ? metrics
        : { ...metrics, control_variates: { devices: step.population, restarted: step.restarted } };
    return { checkpoint, metrics: recorded };
  } finally {
    await Promise.allSettled([
      ...opened.map(async (file) => (await file).release()),
      // The store has moved what it took; the rest would lie here until the process ends.
      ...written.map((path) => rm(path, { force: true })),
    ]);
  }
}
