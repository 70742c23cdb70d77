import { randomUUID } from 'node:crypto';
import type { FeatureSpec } from '@octomil/shared/features';
import { type Architecture, initialWeights } from '@octomil/shared/models';
import { encodeWeights } from '@octomil/shared/tensors';
import type { JsonObject } from '../database/tables.js';
import { type AggregationDependencies, aggregateRound } from './aggregate-round.js';
import { VersionCompleter, type VersionDependencies } from './complete-version.js';
import { inDeviceOrder } from './device-order.js';
import type { NewEvent } from './event-feed.js';
import { agreeOnFeatures, describedSites, dryRunReport } from './feature-agreement.js';
import { storeBytes } from './object-keys.js';
import { driftOfRound } from './round-drift.js';
import type { BaseCheckpoint, RoundFacts } from './round-facts.js';
import { type Evaluation, evaluationOf } from './round-metrics.js';
import { roundAfter } from './round-plan.js';
import { type AcceptedAnswer, type NewCheckpoint, type NextRound, roundLabel } from './round-store.js';
import { type DriftReport, driftNews } from './site-drift.js';

export interface CloserDependencies extends AggregationDependencies, VersionDependencies {}

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
  readonly #completer: VersionCompleter;

  constructor(dependencies: CloserDependencies) {
    this.#on = dependencies;
    this.#completer = new VersionCompleter(dependencies);
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
    const { checkpoint, metrics } = await aggregateRound(this.#on, facts, answers, signal);
    const drift = await driftOfRound(this.#on.database, facts, answers);
    return this.#complete(facts, owner, { ...metrics, ...(drift === undefined ? {} : { drift }) }, checkpoint);
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
    const news = driftNews((drift ?? {}) as Readonly<Record<string, DriftReport>>);
    if (news !== undefined) events.push({ type: 'drift', data: { ...label, ...news } });
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
        ? await this.#completer.completeOpen(facts, owner, result, events, base)
        : await this.#on.rounds.complete(facts, owner, result, events);
      return done ? { next: factsOf(facts, next, base) } : undefined;
    }
    const done = await this.#completer.completeSession(facts, owner, result, events, base);
    return done ? { next: undefined } : undefined;
  }
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
