import { randomUUID } from 'node:crypto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { renewClaim } from './aggregation-claim.js';
import type { AssignmentStore } from './assignment-store.js';
import { cachedAnswers } from './describe-cache.js';
import type { NewEvent } from './event-feed.js';
import { openKey } from './open-round.js';
import type { RoundCloser } from './round-closer.js';
import { demandOf } from './round-demand.js';
import { endingOf, isHopeless, type Outcome } from './round-ending.js';
import type { RoundFacts, RoundFactsReader } from './round-facts.js';
import { closeDecision, topUpCount } from './round-machine.js';
import { type RoundStore, type RoundTallyRow, roundLabel } from './round-store.js';
import { selectionStart } from './seeds.js';
import { type DeviceSelector, describePossible, reasonsOf, type SelectedDevice } from './selection.js';

export interface DriverDependencies {
  readonly database: Database;
  readonly rounds: RoundStore;
  readonly assignments: AssignmentStore;
  readonly facts: RoundFactsReader;
  readonly selector: DeviceSelector;
  readonly closer: RoundCloser;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Names this process as owner of an aggregation. */
  readonly coordinatorId: string;
  readonly ownerLeaseMs: number;
  /** Their open assignments changed. */
  readonly tellDevices: (deviceIds: readonly string[]) => void;
  /** Their events changed. */
  readonly tellSession: (sessionId: string) => void;
  /** A round is under way: its base will be needed. Must not throw. */
  readonly onCollecting: (facts: RoundFacts) => void;
  /** Wakes the round again when its deadline is there. Must not throw. */
  readonly onDeadline: (facts: RoundFacts) => void;
}

/** Describe and evaluate ask every site they find, up to this many. */
const MAX_REPORTING_DEVICES = 1_000;

/** Agents come back to a restarted coordinator within about two seconds. */
const EVALUATION_PATIENCE_SECONDS = 10;

/**
 * Moves rounds on. Everything here may be called at any time, by anybody, any number of times, on several coordinators:
 * rows decide, and a move that somebody else made already is none.
 */
export class RoundDriver {
  readonly #on: DriverDependencies;
  readonly #driving = new Map<string, { again: boolean; done: Promise<void> }>();
  readonly #finishing = new Set<Promise<void>>();
  readonly #stop = new AbortController();

  constructor(dependencies: DriverDependencies) {
    this.#on = dependencies;
  }

  /** Looks at a round and does what is due. Calls that arrive meanwhile are served by one more look. Never throws. */
  wake(roundId: string): Promise<void> {
    if (this.#stop.signal.aborted) return Promise.resolve();
    const running = this.#driving.get(roundId);
    if (running !== undefined) {
      running.again = true;
      return running.done;
    }
    const entry = { again: false, done: Promise.resolve() };
    this.#driving.set(roundId, entry);
    entry.done = this.#loop(roundId, entry);
    return entry.done;
  }

  async #loop(roundId: string, entry: { again: boolean }): Promise<void> {
    try {
      do {
        entry.again = false;
        await this.#look(roundId);
      } while (entry.again && !this.#stop.signal.aborted);
    } catch (error) {
      this.#on.logger.error({ error, roundId }, 'a round could not be moved on; the next sweep tries again');
    } finally {
      this.#driving.delete(roundId);
    }
  }

  /** Ends the work under way; aggregations are left to another coordinator, or to this one's next start. */
  async stop(): Promise<void> {
    this.#stop.abort(new OctomilError('cancelled', 'the coordinator is stopping'));
    await Promise.all([...[...this.#driving.values()].map(({ done }) => done), ...this.#finishing]);
  }

  /** The answer that reached the quorum closes the round at once, without waiting for a job. Never throws. */
  async quorumReached(facts: RoundFacts): Promise<void> {
    if (facts.kind !== 'train') return this.wake(facts.id);
    if (this.#stop.signal.aborted) return;
    try {
      await this.#close(facts, false);
    } catch (error) {
      this.#on.logger.error({ error, roundId: facts.id }, 'a round could not be closed; the next sweep tries again');
    }
  }

  async #look(roundId: string): Promise<void> {
    const facts = await this.#on.facts.of(roundId);
    const tally = await this.#on.rounds.tally(roundId);
    if (facts === undefined || tally?.sessionState !== 'running') return;
    switch (tally.state) {
      case 'scheduled':
      case 'selecting':
        return this.#select(facts, tally);
      case 'collecting':
        return facts.config.admission === 'open' ? this.#collectOpen(facts, tally) : this.#collect(facts, tally);
      case 'aggregating':
        if (
          !tally.orphaned ||
          !(await this.#on.rounds.takeOver(roundId, this.#on.coordinatorId, this.#on.ownerLeaseMs))
        )
          return;
        this.#on.logger.info({ roundId }, 'taking over the aggregation of a coordinator that has not been heard of');
        this.#finish(facts);
        return;
      case 'completed':
      case 'insufficient_updates':
      case 'failed':
      case 'cancelled':
        return;
    }
  }

  // Selecting

  async #select(facts: RoundFacts, tally: Pick<RoundTallyRow, 'deadlinePassed' | 'retries'>): Promise<void> {
    if (facts.config.admission === 'open') return this.#open(facts);
    const { selector, rounds } = this.#on;
    const request = {
      demand: demandOf(facts),
      start: selectionStart(facts.seed, facts.id),
    };
    const mayKnow = facts.attempt > 1 || (facts.kind === 'train' && facts.config.describes);
    const lastResort = mayKnow ? await this.#askedBefore(facts) : undefined;
    const count = facts.kind === 'train' ? facts.targetDevices : MAX_REPORTING_DEVICES;
    const devices = await selector.select({ ...request, count, ...(lastResort === undefined ? {} : { lastResort }) });
    if (facts.config.dryRun && devices.length === 0) return this.#close(facts, true);
    if (devices.length >= facts.minUpdates) return this.#start(facts, devices);
    if (facts.kind === 'evaluate') return this.#selectForEvaluation(facts, devices, tally.deadlinePassed);
    const counted = await selector.countPossible(request, facts.minUpdates);
    if (counted.possible < facts.minUpdates) {
      return this.#giveUp(facts, tally.retries, {
        state: 'insufficient_updates',
        code: 'insufficient_devices',
        reason: [
          `${describePossible(counted)}, and ${facts.minUpdates} are needed`,
          ...reasonsOf(counted.refused),
        ].join('; '),
      });
    }
    const reason = `${devices.length} of the ${facts.minUpdates} devices needed are online and eligible`;
    if (tally.deadlinePassed) {
      return this.#giveUp(facts, tally.retries, {
        state: 'insufficient_updates',
        code: 'insufficient_devices',
        reason: `${reason} at the deadline`,
      });
    }
    await rounds.wait(facts, reason, {
      type: 'round',
      data: { ...roundLabel(facts), state: 'selecting', reason_code: 'waiting_for_devices', reason },
    });
    this.#on.tellSession(facts.sessionId);
    this.#on.onDeadline(facts);
  }

  /**
   * As many sites as a round needs were just here: those that are not are given a moment, since it may be this coordinator
   * that was away. After it, whoever is here is asked; nobody is an answer too.
   */
  async #selectForEvaluation(
    facts: RoundFacts,
    devices: readonly SelectedDevice[],
    waitedEnough: boolean,
  ): Promise<void> {
    if (waitedEnough) return devices.length === 0 ? this.#close(facts, true) : this.#start(facts, devices);
    const patienceSeconds = Math.min(EVALUATION_PATIENCE_SECONDS, facts.config.roundDeadlineSeconds);
    const reason = `${devices.length} of ${facts.minUpdates} devices are online; waiting ${patienceSeconds} s for the others`;
    await this.#on.rounds.wait(
      facts,
      reason,
      {
        type: 'round',
        data: { ...roundLabel(facts), state: 'selecting', reason_code: 'waiting_for_devices', reason },
      },
      patienceSeconds,
    );
    this.#on.tellSession(facts.sessionId);
  }

  async #start(facts: RoundFacts, devices: readonly SelectedDevice[]): Promise<void> {
    const cached = facts.kind === 'describe' ? await cachedAnswers(this.#on.database, facts.config, devices) : [];
    const answered = new Set(cached.map(({ deviceId }) => deviceId));
    const asked = devices.filter(({ id }) => !answered.has(id)).map(({ id }) => ({ id: randomUUID(), deviceId: id }));
    const event: NewEvent = {
      type: 'round',
      data: {
        ...roundLabel(facts),
        state: 'collecting',
        total_rounds: facts.config.rounds,
        min_updates: facts.minUpdates,
        devices: devices.slice(0, 200).map(({ name }) => name),
        device_count: devices.length,
        deadline_seconds: facts.config.roundDeadlineSeconds,
      },
    };
    if (!(await this.#on.rounds.start(facts, asked, [event]))) return;
    this.#on.tellDevices(asked.map(({ deviceId }) => deviceId));
    this.#on.tellSession(facts.sessionId);
    this.#on.onCollecting(facts);
    this.#on.onDeadline(facts);
    if (cached.length > 0) await this.#on.assignments.countCached(facts, cached);
    if (asked.length === 0) await this.#look(facts.id);
  }

  /** Devices that earlier attempts of this round, or the question about their columns, asked in vain: others come first. */
  async #askedBefore(facts: RoundFacts): Promise<ReadonlySet<string>> {
    const { rows } = await sql<{ device_id: string }>`
      select distinct a.device_id from assignments a join rounds r on r.id = a.round_id
      where r.session_id = ${facts.sessionId} and r.id <> ${facts.id}
        and (r.number = ${facts.number} or r.kind = 'describe')
        and a.state in ('refused', 'failed', 'expired')`.execute(this.#on.database.kysely);
    return new Set(rows.map((row) => row.device_id));
  }

  /** Open admission selects nobody: the round collects from whoever uploads. */
  async #open(facts: RoundFacts): Promise<void> {
    const { base, config, model } = facts;
    if (base === undefined) throw new OctomilError('internal', `round ${facts.id} has no base checkpoint`);
    const deadlineSeconds = config.closesOnRequest === true ? null : config.roundDeadlineSeconds;
    const event: NewEvent = { type: 'round', data: { ...roundLabel(facts), state: 'collecting' } };
    const opened = await this.#on.rounds.open(facts, { openFor: openKey(model.id, base.sha256), deadlineSeconds }, [
      event,
    ]);
    if (!opened) return;
    this.#on.tellSession(facts.sessionId);
    if (deadlineSeconds !== null) this.#on.onDeadline(facts);
  }

  async #collectOpen(facts: RoundFacts, tally: RoundTallyRow): Promise<void> {
    if (facts.config.closesOnRequest === true) return;
    const decision = closeDecision({ kind: facts.kind, ...tally });
    if (decision === 'aggregate') return this.#close(facts, false);
    if (decision === 'insufficient') {
      return this.#giveUp(facts, tally.retries, {
        state: 'insufficient_updates',
        code: 'insufficient_updates',
        reason: `${tally.accepted} of ${facts.minUpdates} updates were uploaded before the deadline`,
      });
    }
  }

  // Collecting

  async #collect(facts: RoundFacts, seen: RoundTallyRow): Promise<void> {
    let tally: RoundTallyRow | undefined = seen;
    if (tally.overdue > 0) {
      this.#on.tellDevices(await this.#on.assignments.expire(facts));
      this.#on.tellSession(facts.sessionId);
      tally = await this.#on.rounds.tally(facts.id);
      if (tally?.state !== 'collecting') return;
    }
    switch (closeDecision({ kind: facts.kind, ...tally })) {
      case 'aggregate':
        return this.#close(facts, facts.kind !== 'train');
      case 'insufficient':
        return this.#giveUp(facts, tally.retries, {
          state: 'insufficient_updates',
          code: 'insufficient_updates',
          reason: `${tally.accepted} of ${facts.minUpdates} updates arrived before the deadline`,
        });
      case 'wait':
        return this.#topUp(facts, tally);
    }
  }

  async #topUp(facts: RoundFacts, tally: RoundTallyRow): Promise<void> {
    if (facts.kind === 'evaluate') return;
    const missing = topUpCount(tally);
    if (missing === 0) return;
    const { selector } = this.#on;
    const request = {
      demand: demandOf(facts),
      excludedRoundId: facts.id,
      start: selectionStart(facts.seed, facts.id),
    };
    let devices = await selector.select({ ...request, count: missing });
    if (devices.length < missing) {
      // A device that was lost and is back is better than none.
      devices = await selector.select({ ...request, expiredAgain: true, count: missing });
    }
    if (devices.length > 0) {
      const asked = await this.#on.assignments.topUp(
        facts,
        devices.map(({ id }) => ({ id: randomUUID(), deviceId: id })),
      );
      this.#on.tellDevices(asked);
      this.#on.tellSession(facts.sessionId);
    }
    const short = facts.minUpdates - tally.accepted - tally.working - devices.length;
    if (short <= 0) return;
    const { possible } = await selector.countPossible({ ...request, expiredAgain: true }, short);
    if (possible < short) {
      // Each site's reason counts: who still works on its answer is heard before the round is given up.
      if (facts.kind === 'describe' && tally.working > 0) return;
      return this.#giveUp(facts, tally.retries, {
        state: 'insufficient_updates',
        code: 'insufficient_updates',
        reason: `${tally.accepted} of ${facts.minUpdates} updates arrived and no other device can be asked`,
      });
    }
    await this.#on.rounds.explain(
      facts,
      'waiting_for_devices',
      `${short} more of the ${facts.minUpdates} devices needed must come online`,
    );
    this.#on.tellSession(facts.sessionId);
  }

  /** A round ends without a result: another attempt, or a pause that names the sites and their reasons. */
  async #giveUp(facts: RoundFacts, retries: number, outcome: Outcome): Promise<void> {
    const { rounds } = this.#on;
    const { ending, label, events } = endingOf(facts, retries, outcome, await rounds.unanswered(facts.id));
    const cancelled = await rounds.end(facts, ending, events);
    if (cancelled === undefined) return;
    this.#on.logger.warn({ sessionId: facts.sessionId, roundId: facts.id, ...label }, 'a round ended without a result');
    this.#on.tellDevices(cancelled.map(({ deviceId }) => deviceId));
    this.#on.tellSession(facts.sessionId);
    if (ending.next !== undefined) void this.wake(ending.next.id);
  }

  // Aggregating

  /** Goes on with a round that somebody else has moved to `aggregating` in this coordinator's name. Never throws. */
  aggregate(facts: RoundFacts): void {
    if (!this.#stop.signal.aborted) this.#finish(facts);
  }

  async #close(facts: RoundFacts, force: boolean): Promise<void> {
    const cancelled = await this.#on.rounds.close(facts, this.#on.coordinatorId, this.#on.ownerLeaseMs, force);
    if (cancelled === undefined) return;
    this.#on.tellDevices(cancelled.map(({ deviceId }) => deviceId));
    this.#on.tellSession(facts.sessionId);
    this.#finish(facts);
  }

  #finish(facts: RoundFacts): void {
    const work = this.#finishNow(facts).finally(() => this.#finishing.delete(work));
    this.#finishing.add(work);
  }

  async #finishNow(facts: RoundFacts): Promise<void> {
    const { coordinatorId, ownerLeaseMs, rounds, logger } = this.#on;
    const claim = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, claim.signal]);
    const stopRenewing = renewClaim(this.#on, facts.id, claim);
    try {
      const closed = await this.#on.closer.finish(facts, coordinatorId, signal);
      this.#on.tellSession(facts.sessionId);
      if (closed?.next === undefined) return;
      this.#on.facts.remember(closed.next.id, Promise.resolve(closed.next));
      await this.#select(closed.next, { deadlinePassed: false, retries: 0 });
    } catch (thrown) {
      if (this.#stop.signal.aborted) {
        await rounds.release(facts.id, coordinatorId).catch(() => undefined);
        return;
      }
      if (claim.signal.aborted) return;
      const error = toOctomilError(thrown);
      logger.error({ error: thrown, sessionId: facts.sessionId, roundId: facts.id }, 'a round could not be completed');
      await this.#giveUp(facts, await this.#retriesOf(facts.id), {
        state: 'failed',
        code: error.code,
        reason: error.reason,
        owner: coordinatorId,
        hopeless: isHopeless(error.code),
      }).catch((error) => logger.error({ error, roundId: facts.id, ownerLeaseMs }, 'the failure could not be kept'));
    } finally {
      stopRenewing();
    }
  }

  async #retriesOf(roundId: string): Promise<number> {
    return (await this.#on.rounds.tally(roundId))?.retries ?? 0;
  }
}
