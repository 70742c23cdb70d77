import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { FeatureSpec } from '@octomil/shared/features';
import { type Architecture, initialWeights, type ModelDocument, planModel } from '@octomil/shared/models';
import type { ObjectStore } from '@octomil/shared/storage';
import { encodeWeights } from '@octomil/shared/tensors';
import { sql } from 'kysely';
import { strategyByName } from '../aggregation/strategies.js';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';
import { controlStep } from './control-variates.js';
import type { NewEvent } from './event-feed.js';
import { agreeOnFeatures, describedSites, dryRunReport } from './feature-agreement.js';
import { storeBytes } from './object-keys.js';
import type { ClientFormats, TrainingAggregator, TrainingRegistry } from './ports.js';
import type { BaseCheckpoint, RoundFacts } from './round-facts.js';
import { capShares } from './round-machine.js';
import { type Evaluation, evaluationOf, trainingMetrics } from './round-metrics.js';
import { roundAfter } from './round-plan.js';
import { type AcceptedAnswer, type NewCheckpoint, type NextRound, type RoundStore, roundLabel } from './round-store.js';
import type { DriftReport } from './site-drift.js';

export interface CloserDependencies {
  readonly database: Database;
  readonly rounds: RoundStore;
  readonly objects: ObjectStore;
  readonly aggregator: TrainingAggregator;
  readonly registry: TrainingRegistry;
  /** For versions of open admission. */
  readonly clientFormats: ClientFormats | undefined;
  /** Devices that could take part in a round, up to `MAX_POPULATION`. */
  readonly population: (facts: RoundFacts) => Promise<number>;
  /** Where aggregation writes before the store takes over; best on the store's own file system. */
  readonly temporaryFolder: () => Promise<string>;
}

/** What follows a round that is done: the facts of the next one, or nothing when the session is complete. */
export interface Closed {
  readonly next: RoundFacts | undefined;
}

/**
 * Turns a closed round into its result. Objects are stored first, then one transaction makes them count; whoever is
 * killed in between is repeated by another coordinator and gets the same bytes.
 */
export class RoundCloser {
  readonly #on: CloserDependencies;

  constructor(dependencies: CloserDependencies) {
    this.#on = dependencies;
  }

  /**
   * @returns `undefined` when the round turned out to be another's
   * @throws `cancelled` by the signal; whatever aggregation, features or the store throw
   */
  async finish(facts: RoundFacts, owner: string, signal: AbortSignal): Promise<Closed | undefined> {
    const answers = inDeviceOrder(await this.#on.rounds.acceptedAnswers(facts.id));
    signal.throwIfAborted();
    switch (facts.kind) {
      case 'describe':
        return this.#describe(facts, owner, answers);
      case 'train':
        return this.#train(facts, owner, answers, signal);
      case 'evaluate':
        return this.#evaluate(facts, owner, answers);
    }
  }

  async #train(
    facts: RoundFacts,
    owner: string,
    answers: readonly AcceptedAnswer[],
    signal: AbortSignal,
  ): Promise<Closed | undefined> {
    const { config, base } = facts;
    if (base === undefined) throw new OctomilError('internal', `round ${facts.id} has no base checkpoint`);
    const { objects, aggregator, temporaryFolder } = this.#on;
    const { weighting, controlled } = strategyByName(config.strategy, config.strategyOptions);
    const capped = capShares(
      answers.map(({ weight }) => (weighting === 'equal' ? 1 : weight)),
      config.maxShareRatio,
    );
    const step = controlled ? controlStep(answers, await this.#on.population(facts), base) : undefined;
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
      return await this.#complete(facts, owner, recorded, checkpoint);
    } finally {
      await Promise.allSettled([
        ...opened.map(async (file) => (await file).release()),
        // The store has moved what it took; the rest would lie here until the process ends.
        ...written.map((path) => rm(path, { force: true })),
      ]);
    }
  }

  async #describe(facts: RoundFacts, owner: string, answers: readonly AcceptedAnswer[]): Promise<Closed | undefined> {
    const { config } = facts;
    const sites = describedSites(answers);
    if (config.dryRun) {
      const confirmed = config.featureProposalId === undefined ? undefined : facts.featureSpec;
      return this.#complete(facts, owner, { report: dryRunReport(config, sites, confirmed) }, undefined);
    }
    const { spec, architecture, inputWidth, warnings } = agreeOnFeatures(config, sites, facts.base !== undefined);
    await this.#on.database.kysely
      .insertInto('feature_specs')
      .values({ hash: spec.hash, organization_id: facts.organizationId, document: JSON.stringify(spec) })
      .onConflict((conflict) => conflict.column('hash').doNothing())
      .execute();
    const metrics = {
      feature_spec_hash: spec.hash,
      columns: spec.columns.length,
      input_width: inputWidth,
      sites: sites.map(({ name }) => name),
      warnings: warnings.slice(0, 100),
    };
    const described = { ...facts, featureSpec: spec, config: { ...config, architecture, inputWidth } };
    const checkpoint = facts.base === undefined ? await this.#initialCheckpoint(described, architecture) : undefined;
    const closed = await this.#complete(described, owner, metrics, checkpoint, spec);
    if (closed !== undefined) await this.#on.registry.setArchitecture(facts.model.id, architecture, config.target);
    return closed;
  }

  /** Checkpoint 0: fresh weights from the session's seed. */
  async #initialCheckpoint(facts: RoundFacts, architecture: Architecture): Promise<NewCheckpoint> {
    const { inputWidth, seed } = facts.config;
    const weights = encodeWeights(initialWeights(architecture, inputWidth, seed));
    return {
      ...(await storeBytes(this.#on.objects, 'checkpoints', weights)),
      id: randomUUID(),
      organizationId: facts.organizationId,
      baseCheckpointId: null,
      strategy: null,
      stateKey: null,
      stateSha256: null,
      lineage: { initial: true, seed, architecture, feature_spec_hash: facts.featureSpec?.hash ?? null },
    };
  }

  async #evaluate(facts: RoundFacts, owner: string, answers: readonly AcceptedAnswer[]): Promise<Closed | undefined> {
    const evaluation = evaluationOf(
      answers.map(({ deviceName, metrics: { report } }) => ({
        name: deviceName,
        metrics: typeof report === 'object' && report !== null ? (report as JsonObject) : {},
      })),
    );
    return this.#complete(facts, owner, { evaluation }, undefined);
  }

  async #complete(
    facts: RoundFacts,
    owner: string,
    metrics: JsonObject,
    checkpoint: NewCheckpoint | undefined,
    spec?: FeatureSpec,
  ): Promise<Closed | undefined> {
    const base: BaseCheckpoint | undefined = checkpoint ?? facts.base;
    const { architecture, inputWidth } = facts.config;
    const next = roundAfter(facts, base?.id ?? null);
    const label = roundLabel(facts);
    const events: NewEvent[] = [];
    if (checkpoint !== undefined) {
      events.push({
        type: 'checkpoint',
        data: { ...label, checkpoint_id: checkpoint.id, sha256: checkpoint.sha256, size_bytes: checkpoint.sizeBytes },
      });
    }
    const evaluation = metrics['evaluation'] as Evaluation | undefined;
    if (evaluation !== undefined && evaluation.overall !== null) {
      // What was evaluated is the checkpoint of the round before.
      events.push({ type: 'evaluation', data: { ...label, round_number: facts.number - 1, ...evaluation } });
    }
    const { drift, ...told } = metrics;
    const drifted = Object.entries((drift ?? {}) as Readonly<Record<string, DriftReport>>)
      .filter(([, { warnings }]) => warnings.length > 0)
      .map(([site, { warnings }]) => [site, warnings.slice(0, 10)]);
    if (drifted.length > 0) {
      events.push({ type: 'drift', data: { ...label, sites: Object.fromEntries(drifted.slice(0, 100)) } });
    }
    events.push({ type: 'round', data: { ...label, state: 'completed', metrics: told } });
    const result = {
      metrics,
      ...(checkpoint === undefined ? {} : { checkpoint }),
      ...(spec === undefined ? {} : { specified: { hash: spec.hash, config: { architecture, inputWidth } } }),
      ...(next === undefined ? {} : { next }),
    };
    if (next !== undefined) {
      const open = facts.config.admission === 'open';
      const done = open
        ? await this.#completeOpen(facts, owner, result, events, base)
        : await this.#on.rounds.complete(facts, owner, result, events);
      return done ? { next: factsOf(facts, next, base) } : undefined;
    }
    const done = await this.#completeSession(facts, owner, result, events, base);
    return done ? { next: undefined } : undefined;
  }

  /** Clients can only start from versions, so each round of theirs makes one; it is published with the last. */
  async #completeOpen(
    facts: RoundFacts,
    owner: string,
    result: { metrics: JsonObject; checkpoint?: NewCheckpoint; next?: NextRound },
    events: readonly NewEvent[],
    base: BaseCheckpoint | undefined,
  ): Promise<boolean> {
    return this.#on.database.transact(async (transaction) => {
      if (!(await this.#on.rounds.complete(facts, owner, result, events, transaction))) return false;
      if (base === undefined) return true;
      const { versionId } = await this.#on.registry.createVersionFromCheckpoint(
        {
          modelId: facts.model.id,
          requestedVersion: null,
          baseVersionId: facts.baseVersionId,
          checkpoint: base,
          document: documentOf(facts),
          lineage: { session_id: facts.sessionId, round_number: facts.number, ...result.checkpoint?.lineage },
          metrics: {},
          publish: false,
          // One version for each round.
          sessionId: facts.id,
        },
        transaction,
      );
      await this.#on.clientFormats?.(versionId, transaction);
      return true;
    });
  }

  /** The last round, the version and the end of the session are one transaction. */
  async #completeSession(
    facts: RoundFacts,
    owner: string,
    result: { metrics: JsonObject; checkpoint?: NewCheckpoint; next?: NextRound },
    events: readonly NewEvent[],
    base: BaseCheckpoint | undefined,
  ): Promise<boolean> {
    const { database } = this.#on;
    const lineage = facts.config.dryRun ? {} : await this.#lineage(facts);
    const attempt = (requestedVersion: string | null): Promise<boolean> =>
      database.transact(async (transaction) => {
        if (!(await this.#on.rounds.complete(facts, owner, result, events, transaction))) return false;
        const version =
          facts.config.dryRun || base === undefined
            ? undefined
            : await this.#on.registry.createVersionFromCheckpoint(
                {
                  modelId: facts.model.id,
                  requestedVersion,
                  baseVersionId: facts.baseVersionId,
                  checkpoint: base,
                  document: documentOf(facts),
                  lineage: {
                    ...lineage,
                    ...(result.checkpoint === undefined ? {} : { final: result.checkpoint.lineage }),
                    sha256: base.sha256,
                  },
                  metrics: versionMetrics(facts, result.metrics),
                  publish: facts.config.publish,
                  sessionId: facts.sessionId,
                },
                transaction,
              );
        if (version !== undefined && facts.config.admission === 'open') {
          await this.#on.clientFormats?.(version.versionId, transaction);
        }
        const taken =
          version !== undefined && facts.config.newVersion !== null && version.version !== facts.config.newVersion;
        const reason = taken
          ? `version ${facts.config.newVersion} was created by somebody else meanwhile; the result is ${version.version}`
          : null;
        const state = { session_id: facts.sessionId, state: 'completed', reason };
        const closing: NewEvent[] = [
          ...(version === undefined
            ? []
            : [
                {
                  type: 'version' as const,
                  data: {
                    session_id: facts.sessionId,
                    version_id: version.versionId,
                    version: version.version,
                    sequence: version.sequence,
                    published: facts.config.publish,
                    sha256: base?.sha256 ?? null,
                  },
                },
              ]),
          { type: 'session', data: state },
          { type: 'end', data: state },
        ];
        await sql`update training_sessions set state = 'completed', result_version_id = ${version?.versionId ?? null},
          reason_code = ${taken ? 'version_taken' : null}, reason = ${reason}, updated_at = now(), finished_at = now()
          where id = ${facts.sessionId}`.execute(transaction);
        // The row is locked by this transaction, as the order of events demands.
        for (const { type, data } of closing) {
          await transaction
            .insertInto('session_events')
            .values({ session_id: facts.sessionId, type, data: JSON.stringify(data) })
            .execute();
        }
        return true;
      });
    try {
      return await attempt(facts.config.newVersion);
    } catch (error) {
      const conflict = error instanceof OctomilError ? error.code === 'conflict' : violatedUnique(error) !== undefined;
      if (facts.config.newVersion === null || !conflict) throw error;
      return attempt(null);
    }
  }

  async #lineage(facts: RoundFacts): Promise<JsonObject> {
    const rows = await this.#on.database.kysely
      .selectFrom('checkpoints as c')
      .innerJoin('rounds as r', 'r.id', 'c.round_id')
      .select(['r.number', 'r.attempt', 'c.sha256', 'c.lineage'])
      .where('c.session_id', '=', facts.sessionId)
      .orderBy('r.number')
      .execute();
    const { config } = facts;
    return {
      session_id: facts.sessionId,
      base_version_id: facts.baseVersionId,
      federation_id: facts.federation.id,
      strategy: config.strategy,
      strategy_options: config.strategyOptions,
      local: config.local,
      update_format: config.updateFormat,
      seed: config.seed,
      feature_spec_hash: facts.featureSpec?.hash ?? null,
      rounds: rows.map((row) => ({
        number: row.number,
        attempt: row.attempt,
        sha256: row.sha256,
        backend: row.lineage['backend'] ?? null,
        participants: row.lineage['participants'] ?? [],
      })),
    };
  }
}

/**
 * By identifier, then by id: names are chosen by people and stay when a device is enrolled anew, so that the same sites
 * give the same bytes again. Compared by code units, which no database's collation changes.
 */
export function inDeviceOrder(answers: readonly AcceptedAnswer[]): AcceptedAnswer[] {
  const key = ({ deviceName, deviceId }: AcceptedAnswer) => `${deviceName}\n${deviceId}`;
  return [...answers].sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

function factsOf(facts: RoundFacts, next: NextRound, base: BaseCheckpoint | undefined): RoundFacts {
  return {
    ...facts,
    id: next.id,
    kind: next.kind,
    number: next.number,
    attempt: next.attempt,
    seed: next.seed,
    minUpdates: next.minUpdates,
    targetDevices: next.targetDevices,
    base,
  };
}

/** Figures of the version itself: those of the evaluate round. */
function versionMetrics(facts: RoundFacts, metrics: JsonObject): JsonObject {
  const evaluation = facts.kind === 'evaluate' ? (metrics['evaluation'] as Evaluation | undefined) : undefined;
  return evaluation === undefined ? {} : { ...evaluation.overall, ...evaluation };
}

/** @throws `internal` when the session has no architecture */
function documentOf({ config, featureSpec }: RoundFacts): ModelDocument {
  const { architecture, inputWidth } = config;
  if (architecture === null) throw new OctomilError('internal', 'the session has no architecture');
  return {
    format: 'octomil-model',
    formatVersion: 1,
    architecture,
    inputWidth,
    ...(featureSpec === undefined ? {} : { featureSpec }),
    weightOrder:
      config.weightOrder ?? [...planModel(architecture, inputWidth).weights.values()].flat().map(({ name }) => name),
  };
}
