import type { Clock, Logger } from '@octomil/shared/runtime';
import type { Kysely } from 'kysely';
import type { Database } from '../database/database.js';
import type { Tables } from '../database/tables.js';
import { type Gates, parseGates } from './gates.js';
import { type GateVerdict, judgeGates, type RolloutAggregate } from './judge-gates.js';
import { devicesLeft, readAggregate, type SeenRollout } from './rollout-aggregate.js';
import { grown } from './rollout-commands.js';
import { isSecondRollout, type Move, type Rollout, type RolloutStore } from './rollout-store.js';
import { nextShare, percentageOf } from './share.js';

/** The sliver of the audit log that is needed. */
export interface RolloutAudit {
  record(
    entry: {
      readonly organizationId: string;
      readonly actor: string;
      readonly action: string;
      readonly resource: string;
      readonly details: Readonly<Record<string, unknown>>;
    },
    transaction?: Kysely<Tables>,
  ): Promise<void>;
}

export interface RolloutDriverOptions {
  readonly database: Database;
  readonly store: RolloutStore;
  readonly audit: RolloutAudit;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How long reachable devices may take to leave a rollout that is rolled back. */
  readonly rollbackWithinMs: number;
  /** How long gates are judged after the last stage, which reaches the most devices. */
  readonly watchSeconds: number;
  /** Called after a commit that changed what devices should run, or when the next stage is due. */
  readonly changed: (rollout: Rollout) => void;
}

/** What gates say of a rollout, and what they read. */
export interface Judgement {
  readonly gates: Gates;
  readonly seen: SeenRollout;
  readonly verdict: GateVerdict;
}

/** Reports of a burst are judged together. */
const DEBOUNCE_MS = 250;
/** A rollout whose aggregate takes long is looked at less often: it may cost a fifth of the time at most. */
const REST_FACTOR = 4;
const COORDINATOR = 'coordinator';

/**
 * Looks after rollouts: judges their gates, advances them when a stage is due, takes them back on a breach, and ends
 * rollbacks. Any number of coordinators may look at the same rollout: each move names the state and stage it saw.
 */
export class RolloutDriver {
  readonly #options: RolloutDriverOptions;
  readonly #scheduled = new Map<number, () => void>();
  readonly #restUntilMs = new Map<number, number>();
  readonly #running = new Set<Promise<void>>();
  #stopped = false;

  constructor(options: RolloutDriverOptions) {
    this.#options = options;
  }

  /** Devices of this rollout said something: it is looked at soon. */
  observed(rolloutId: number): void {
    if (this.#stopped || this.#scheduled.has(rolloutId)) return;
    const { clock } = this.#options;
    const delayMs = Math.max(DEBOUNCE_MS, (this.#restUntilMs.get(rolloutId) ?? 0) - clock.now());
    const cancel = clock.after(delayMs, () => {
      this.#scheduled.delete(rolloutId);
      void this.#track(this.wake(rolloutId));
    });
    this.#scheduled.set(rolloutId, cancel);
  }

  /** Looks at every rollout that needs it. */
  async sweep(): Promise<void> {
    const nowMs = this.#options.clock.now();
    for (const [id, untilMs] of this.#restUntilMs) if (untilMs < nowMs) this.#restUntilMs.delete(id);
    for (const id of await this.#options.store.watched(this.#options.watchSeconds)) {
      if (this.#stopped) return;
      if ((this.#restUntilMs.get(id) ?? 0) <= nowMs) await this.#track(this.wake(id));
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const cancel of this.#scheduled.values()) cancel();
    this.#scheduled.clear();
    await Promise.all(this.#running);
  }

  /** Looks at a rollout and does what is due. Safe at any time. */
  async wake(rolloutId: number): Promise<void> {
    const { store, clock } = this.#options;
    const startedAtMs = clock.now();
    const rollout = await store.find(rolloutId);
    if (rollout === undefined) return;
    if (rollout.state === 'active' || (await this.#isFresh(rollout))) await this.#judge(rollout);
    else if (rollout.state === 'rolling_back') await this.#settle(rollout);
    this.#restUntilMs.set(rolloutId, clock.now() + REST_FACTOR * (clock.now() - startedAtMs));
  }

  /** What the gates say now; undefined when the rollout is gone. */
  async judgement(rollout: Rollout): Promise<Judgement | undefined> {
    const gates = parseGates(rollout.gates);
    const seen = await readAggregate(this.#options.database, rollout, gates);
    if (seen === undefined) return undefined;
    return { gates, seen, verdict: judgeGates(gates, seen.aggregate) };
  }

  /** Does what the gates ask for on a breach. Answers whether this call did it. */
  async breach(rollout: Rollout, { gates, seen, verdict }: Judgement): Promise<boolean> {
    if (verdict.verdict !== 'breach') return false;
    // What has reached every device cannot be held back any more.
    if (rollout.state === 'completed' && gates.onBreach === 'pause') return false;
    const to = gates.onBreach === 'pause' ? 'paused' : 'rolling_back';
    return this.#move(
      rollout,
      { to, actor: COORDINATOR, reasonCode: 'gate_breached', reason: `${verdict.gate}: ${verdict.reason}` },
      { gate: verdict.gate, reason: verdict.reason, ...figures(seen.aggregate) },
    );
  }

  async #isFresh({ id, state }: Rollout): Promise<boolean> {
    if (state !== 'completed') return false;
    const { store, watchSeconds } = this.#options;
    return ((await store.secondsSinceMove(id)) ?? Number.POSITIVE_INFINITY) < watchSeconds;
  }

  async #judge(rollout: Rollout): Promise<void> {
    const judgement = await this.judgement(rollout);
    if (judgement === undefined) return;
    const { seen, verdict } = judgement;
    if (verdict.verdict === 'breach') {
      await this.breach(rollout, judgement);
    } else if (rollout.state === 'active' && seen.due && verdict.verdict === 'ok') {
      const share = nextShare(rollout.share_ratio, rollout.increment_ratio, rollout.target_ratio);
      await this.#move(rollout, grown(rollout, share, COORDINATOR, null), figures(seen.aggregate));
    }
  }

  /** What is gone cannot reach another device: those that would have got it go on with what they had. */
  async objectMissing(objectKey: string): Promise<void> {
    for (const rollout of await this.#options.store.needing(objectKey)) {
      await this.#move(
        rollout,
        {
          to: 'failed',
          actor: COORDINATOR,
          reasonCode: 'download_failed',
          reason: `a file of version ${rollout.version} is gone from the object store; upload a new version and roll that out`,
        },
        { object_key: objectKey },
      );
    }
  }

  async #settle(rollout: Rollout): Promise<void> {
    const { database, store, rollbackWithinMs } = this.#options;
    const left = await devicesLeft(database, rollout.id);
    if (left > 0 && ((await store.secondsSinceMove(rollout.id)) ?? 0) * 1000 < rollbackWithinMs) return;
    await this.#move(
      rollout,
      {
        to: 'rolled_back',
        actor: COORDINATOR,
        reasonCode: rollout.reason_code,
        reason: rollout.reason,
      },
      { devices_left: left },
    );
  }

  /** False when somebody else was faster, or a newer rollout is in the way. */
  async #move(rollout: Rollout, move: Move, details: Readonly<Record<string, unknown>>): Promise<boolean> {
    const { database, store, audit, logger } = this.#options;
    let moved: Rollout | undefined;
    try {
      moved = await database.transact(async (transaction) => {
        const row = await store.move(transaction, rollout, move);
        if (row === undefined) return undefined;
        await audit.record(
          {
            organizationId: row.organization_id,
            actor: COORDINATOR,
            action: `rollout.${row.state === rollout.state ? 'advanced' : row.state}`,
            resource: `models/${row.model_id}/rollouts/${row.id}`,
            details: {
              from: rollout.state,
              to: row.state,
              rollout_percentage: percentageOf(row.share_ratio),
              ...(row.reason === null ? {} : { reason_code: row.reason_code, reason: row.reason }),
              ...details,
            },
          },
          transaction,
        );
        return row;
      });
    } catch (error) {
      // Another rollout of the model has begun since this one was completed: that one is looked after now.
      if (isSecondRollout(error)) return false;
      throw error;
    }
    if (moved === undefined) return false;
    const level = move.reasonCode === 'gate_breached' ? 'warn' : 'info';
    logger[level](
      { rolloutId: moved.id, from: rollout.state, to: moved.state, share: moved.share_ratio, reason: moved.reason },
      'a rollout moved by itself',
    );
    this.#options.changed(moved);
    return true;
  }

  #track(work: Promise<void>): Promise<void> {
    const tracked = work
      .catch((error: unknown) =>
        this.#options.logger.error({ error }, 'a rollout could not be looked at; trying again'),
      )
      .finally(() => this.#running.delete(tracked));
    this.#running.add(tracked);
    return tracked;
  }
}

/** The figures that a move was made on, for the record. */
function figures(seen: RolloutAggregate): Record<string, unknown> {
  return {
    active: seen.active,
    failed: seen.failed,
    pending: seen.pending,
    waiting: seen.waiting,
    inferences: seen.inferences,
    inference_errors: seen.inferenceErrors,
    latency_ms: seen.latencyMs,
  };
}
