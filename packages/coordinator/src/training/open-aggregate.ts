import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { type Static, Type } from 'typebox';
import { strategyByName } from '../aggregation/strategies.js';
import type { JsonObject } from '../database/tables.js';
import { parseVersion } from '../models/version-number.js';
import type { EventFeed } from './event-feed.js';
import { openKey } from './open-round.js';
import type { AggregationRow, OpenStore } from './open-store.js';
import type { TrainingRegistry } from './ports.js';
import type { RoundDriver } from './round-driver.js';
import type { RoundFactsReader } from './round-facts.js';
import { roundLabel } from './round-store.js';
import { findBase } from './session-base.js';
import type { Caller, SessionService } from './session-service.js';

const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
const Name = Type.String({ minLength: 1, maxLength: 1_000 });

/** Body of `POST /api/v1/training/aggregate`. The published clients send every field, sizes of a model included. */
export const AggregateBody = Type.Object({
  model_id: Name,
  base_version: OrNull(Name),
  new_version: OrNull(Name),
  min_updates: OrNull(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
  publish: OrNull(Type.Boolean()),
  strategy: OrNull(Name),
  strategy_options: OrNull(Type.Record(Type.String(), Type.Unknown())),
  // What the updates are, they say themselves.
  update_format: OrNull(Type.Union([Type.Literal('delta'), Type.Literal('weights')])),
  max_share: OrNull(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
  architecture: OrNull(Type.Unknown()),
  input_dim: OrNull(Type.Integer()),
  hidden_dim: OrNull(Type.Integer()),
  output_dim: OrNull(Type.Integer()),
});
export type AggregateBody = Static<typeof AggregateBody>;

export interface OpenAggregateDependencies {
  readonly store: OpenStore;
  readonly sessions: SessionService;
  readonly facts: RoundFactsReader;
  readonly registry: TrainingRegistry;
  readonly driver: RoundDriver;
  readonly events: EventFeed;
  readonly clock: Clock;
  readonly owner: { readonly id: string; readonly leaseMs: number };
  readonly tellSession: (sessionId: string) => void;
}

/** Published clients wait 20 s for an answer. */
const ANSWER_WITHIN_MS = 15_000;
/** Events of another coordinator may be lost; the row is looked at this often in any case. */
const LOOK_EVERY_MS = 500;
/** A client that had no answer tries again at once, up to three times, each after 20 s at most. */
const REPEATED_WITHIN_SECONDS = 120;
/** What published clients call the mean weighted by samples. */
const CLIENT_STRATEGY_NAMES: Readonly<Record<string, string>> = { metrics: 'fedavg', fedavg: 'fedavg' };

/** Makes versions of what was uploaded unasked. */
export class OpenAggregate {
  readonly #on: OpenAggregateDependencies;

  constructor(dependencies: OpenAggregateDependencies) {
    this.#on = dependencies;
  }

  /**
   * Aggregates the updates that were uploaded for a model and base version since the last time, into a new version. The
   * same request again, while there is nothing new to aggregate, answers what it made.
   *
   * @throws `insufficient_updates` naming how many of how many; `conflict` for a version that exists; `wrong_state` when
   * the round belongs to a session that closes by itself; `model_not_found`, `version_not_found`, `invalid_input`
   */
  async aggregate(body: AggregateBody, caller: Caller): Promise<JsonObject> {
    const { store, sessions, registry } = this.#on;
    const model = await sessions.model(caller.organizationId, body.model_id);
    const base = await findBase(registry, model, body.base_version ?? null);
    const strategy = strategyOf(body);
    const minUpdates = body.min_updates ?? 1;
    const newVersion = body.new_version == null ? null : parseVersion(body.new_version);
    const requestHash = hashOf([caller.organizationId, caller.name, model.id, ...ordered(body)]);
    const round = base === undefined ? undefined : await store.collecting(openKey(model.id, base.weights.sha256));
    const enough = round !== undefined && round.accepted >= minUpdates;
    if (!enough) {
      const repeated = await store.closedBy(model.id, requestHash, REPEATED_WITHIN_SECONDS);
      if (repeated !== undefined) return this.#answer(repeated, body);
    }
    if (base === undefined) {
      throw new OctomilError('version_not_found', `model "${model.name}" has no published version to aggregate upon`);
    }
    const facts = round === undefined ? undefined : await this.#on.facts.of(round.roundId);
    if (facts !== undefined && facts.config.closesOnRequest !== true) {
      throw new OctomilError(
        'wrong_state',
        `session ${facts.sessionId} collects for this model and base version and aggregates by itself at ${facts.minUpdates} updates; wait for it or cancel it`,
        { details: { session_id: facts.sessionId } },
      );
    }
    if (round === undefined || facts === undefined || !enough) {
      throw insufficient(round?.accepted ?? 0, minUpdates, model.name, body.base_version ?? null);
    }
    if (newVersion !== null && (await store.versionExists(model.id, newVersion))) {
      throw new OctomilError(
        'conflict',
        `model "${model.name}" has a version ${newVersion} already; versions never change`,
      );
    }
    const decided: JsonObject = {
      strategy: strategy.name,
      strategyOptions: strategy.options,
      minUpdates,
      publish: body.publish ?? true,
      newVersion,
      maxShareRatio: body.max_share ?? 1,
      requestHash,
    };
    const closed = await store.close(round, this.#on.owner, { minUpdates, newVersion, config: decided }, [
      { type: 'round', data: { ...roundLabel(facts), state: 'aggregating', accepted: round.accepted } },
    ]);
    // Somebody else was faster; if it was the same request, its result is the answer.
    if (!closed) return this.aggregate(body, caller);
    this.#on.tellSession(round.sessionId);
    // An upload beside this may be reading what the round was before it was decided how to aggregate.
    const complete = await this.#on.facts.fresh(round.roundId);
    if (complete !== undefined) this.#on.driver.aggregate(complete);
    return this.#answer(round.sessionId, body);
  }

  async #answer(sessionId: string, body: AggregateBody): Promise<JsonObject> {
    const row = await this.#over(sessionId);
    const strategy = strategyOf(body).name;
    const view = {
      session_id: row.sessionId,
      round_id: row.roundId,
      model_id: body.model_id,
      base_version: body.base_version ?? null,
      strategy,
      updates: row.accepted,
    };
    if (row.state === 'completed') {
      const version = { new_version: row.version, version: row.version, version_id: row.versionId, sha256: row.sha256 };
      return { ...view, status: 'completed', ...version };
    }
    if (row.state === 'running') return { ...view, status: 'aggregating', new_version: null };
    throw new OctomilError(
      'training_failed',
      `the aggregation of session ${sessionId} is ${row.state}: ${row.reason ?? row.reasonCode ?? 'no reason was given'}`,
      { details: { session_id: sessionId } },
    );
  }

  /** The session when it is over, or as it is after a while. */
  async #over(sessionId: string): Promise<AggregationRow> {
    const { store, events, clock } = this.#on;
    const untilMs = clock.now() + ANSWER_WITHIN_MS;
    for (;;) {
      let cancel = (): void => undefined;
      let unfollow = (): void => undefined;
      const changed = new Promise<void>((resolve) => {
        unfollow = events.follow(sessionId, resolve);
        cancel = clock.after(LOOK_EVERY_MS, resolve);
      });
      try {
        const row = await store.aggregation(sessionId);
        if (row === undefined) throw new OctomilError('internal', `session ${sessionId} has no round`);
        if (row.state !== 'running' || clock.now() >= untilMs) return row;
        await changed;
      } finally {
        cancel();
        unfollow();
      }
    }
  }
}

function strategyOf(body: AggregateBody): ReturnType<typeof strategyByName> {
  const name = body.strategy ?? 'fedavg';
  const strategy = strategyByName(CLIENT_STRATEGY_NAMES[name.toLowerCase()] ?? name, body.strategy_options ?? {});
  if (!strategy.controlled) return strategy;
  throw new OctomilError(
    'training_not_supported',
    `the strategy ${strategy.name} needs sites that keep a control variate; what clients upload unasked has none`,
  );
}

function insufficient(accepted: number, minUpdates: number, model: string, base: string | null): OctomilError {
  const asked = base === null ? 'its latest version' : `version ${base}`;
  return new OctomilError(
    'insufficient_updates',
    `${accepted} of ${minUpdates} updates were uploaded for model "${model}" and ${asked} since the last aggregation; upload more with POST /api/v1/training/weights, or lower min_updates`,
    { details: { accepted_updates: accepted, min_updates: minUpdates } },
  );
}

/** Fields in one order, whatever the client's. */
function ordered(body: AggregateBody): unknown[] {
  return Object.entries(body).sort(([a], [b]) => (a < b ? -1 : 1));
}

function hashOf(parts: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}
