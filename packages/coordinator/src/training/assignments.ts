import { createHash, randomUUID } from 'node:crypto';
import type { Assignment } from '@octomil/proto';
import { type ErrorBody, OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import { assignmentMessage, isControlledTraining } from './assignment-message.js';
import type {
  AssignmentKey,
  AssignmentPort,
  Obsolete,
  UpdateBytes,
  UpdateHeaderFields,
  Verdict,
} from './assignment-port.js';
import type { AnswerToStore, AssignmentRow, AssignmentStore } from './assignment-store.js';
import type { BaseLayouts } from './base-layouts.js';
import { BoundedMap } from './bounded-map.js';
import { serverControl } from './control-variates.js';
import { keepStatistics } from './describe-cache.js';
import { checkReport, wholeNumber, whyNot } from './device-answers.js';
import { Gathering } from './gathering.js';
import { assignmentEvent, KnownAssignments } from './known-assignments.js';
import type { StoredFile, TrainingAggregator } from './ports.js';
import type { RoundDriver } from './round-driver.js';
import type { RoundFacts, RoundFactsReader } from './round-facts.js';
import { SubmittedUpdates } from './submitted-updates.js';

export interface AssignmentDependencies {
  readonly database: Database;
  readonly store: AssignmentStore;
  readonly facts: RoundFactsReader;
  readonly layouts: BaseLayouts;
  readonly objects: ObjectStore;
  readonly aggregator: Pick<TrainingAggregator, 'validate'>;
  readonly driver: Pick<RoundDriver, 'wake' | 'quorumReached'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly tellSession: (sessionId: string) => void;
}

/** Progress is kept and told at most this often: well within the shortest lease, `NO_PROGRESS_MINIMUM_SECONDS`. */
const PROGRESS_EVERY_MS = 1_000;
/** How long a base may be fetched without another look at the assignment that named it. */
const BASE_GRANT_MS = 2_000;

interface LastProgress {
  atMs: number;
  /** Events of it, which the next one's replaces: one, unless two were under way together. */
  eventIds: readonly number[];
}

/** The training engine as the device sessions see it. */
export class Assignments implements AssignmentPort {
  readonly #on: AssignmentDependencies;
  readonly #known: KnownAssignments;
  readonly #updates: SubmittedUpdates;
  readonly #lastProgress = new BoundedMap<string, LastProgress>(20_000);
  /** Bases that devices were just told to fetch, by device and digest: most ask for them within milliseconds. */
  readonly #grants = new BoundedMap<string, { base: StoredFile; untilMs: number }>(20_000);
  readonly #accepting: Gathering<{ facts: RoundFacts; deviceId: string; key: AssignmentKey }, boolean>;
  #asking: { deviceIds: Set<string>; rows: Promise<AssignmentRow[]> } | undefined;

  constructor(dependencies: AssignmentDependencies) {
    this.#on = dependencies;
    const { store, facts } = dependencies;
    this.#known = new KnownAssignments(store, facts);
    this.#updates = new SubmittedUpdates(dependencies, this.#known);
    this.#accepting = new Gathering(async (_roundId, accepted) => {
      const [first] = accepted;
      return first === undefined ? [] : store.accept(first.facts, accepted);
    });
  }

  async openAssignments(deviceId: string): Promise<Assignment[]> {
    const rows = (await this.#openOf(deviceId)).filter((row) => row.deviceId === deviceId);
    const messages: Assignment[] = [];
    for (const row of rows) {
      this.#known.remember(row);
      const facts = await this.#on.facts.of(row.roundId);
      if (facts === undefined) continue;
      const lastFolded = isControlledTraining(facts)
        ? await this.#on.store.lastFolded(facts.sessionId, deviceId)
        : undefined;
      messages.push(assignmentMessage(facts, row, lastFolded));
      for (const base of basesOf(facts)) {
        const untilMs = this.#on.clock.now() + BASE_GRANT_MS;
        this.#grants.set(`${deviceId} ${base.sha256}`, { base, untilMs });
      }
    }
    return messages;
  }

  /** Devices that ask at the same moment (all of a round, when it begins) share one statement. */
  #openOf(deviceId: string): Promise<AssignmentRow[]> {
    if (this.#asking === undefined) {
      const deviceIds = new Set<string>();
      const rows = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
        this.#asking = undefined;
        return this.#on.store.openOf([...deviceIds]);
      });
      this.#asking = { deviceIds, rows };
    }
    this.#asking.deviceIds.add(deviceId);
    return this.#asking.rows;
  }

  async obsolete(deviceId: string, keys: readonly AssignmentKey[]): Promise<Obsolete[]> {
    if (keys.length === 0) return [];
    const rows = new Map((await this.#on.store.find(keys.map((key) => key.assignmentId))).map((row) => [row.id, row]));
    return keys.flatMap((key): Obsolete[] => {
      const row = rows.get(key.assignmentId);
      if (row?.state === 'done' && row.deviceId === deviceId && row.attempt === key.attempt) {
        return [{ key, verdict: { accepted: true } }];
      }
      const problem = whyNot(row, deviceId, key);
      return problem === undefined ? [] : [{ key, reason: problem.toBody() }];
    });
  }

  async accept(deviceId: string, key: AssignmentKey): Promise<void> {
    const { facts } = await this.#known.mine(deviceId, key);
    if (await this.#accepting.add(facts.id, { facts, deviceId, key })) {
      // It renewed the lease; a short task is over before anybody could look at its progress.
      this.#progressOf(key).atMs = this.#on.clock.now();
      return;
    }
    await this.#known.refuseToCount(deviceId, key);
  }

  async refuse(deviceId: string, key: AssignmentKey, problem: ErrorBody): Promise<void> {
    await this.#end(deviceId, key, 'refused', problem);
  }

  async fail(deviceId: string, key: AssignmentKey, problem: ErrorBody): Promise<void> {
    await this.#end(deviceId, key, 'failed', problem);
  }

  async #end(deviceId: string, key: AssignmentKey, state: 'refused' | 'failed', problem: ErrorBody): Promise<void> {
    const { facts, known } = await this.#known.mine(deviceId, key);
    const reason = `[${problem.code}] ${problem.message}`.slice(0, 1_000).toWellFormed();
    const events = [assignmentEvent(facts, known, { state, reason_code: problem.code, reason })];
    if (!(await this.#on.store.finish(facts, deviceId, key, { state, code: problem.code, reason }, events))) {
      await this.#known.refuseToCount(deviceId, key);
    }
    this.#on.tellSession(facts.sessionId);
    void this.#on.driver.wake(facts.id);
  }

  async progress(
    deviceId: string,
    key: AssignmentKey,
    step: { phase: string; completed: number; total: number; loss?: number },
  ): Promise<void> {
    const { facts, known } = await this.#known.mine(deviceId, key);
    const nowMs = this.#on.clock.now();
    const last = this.#progressOf(key);
    // One that this process has not heard of, such as after a restart, is kept at once: its lease may be running out.
    if (nowMs - last.atMs < PROGRESS_EVERY_MS) return;
    last.atMs = nowMs;
    const phase = step.phase.slice(0, 40).toWellFormed();
    const counts = { completed: wholeNumber(step.completed), total: wholeNumber(step.total) };
    const loss = Number.isFinite(step.loss) ? { loss: step.loss } : {};
    const event = assignmentEvent(facts, known, { state: 'accepted', phase, ...counts, ...loss });
    const replaced = last.eventIds;
    const eventId = await this.#on.store.progress(facts, deviceId, key, { phase, ...counts }, event, replaced);
    if (eventId === undefined) await this.#known.refuseToCount(deviceId, key);
    else last.eventIds = [...last.eventIds.filter((id) => !replaced.includes(id)), eventId];
    this.#on.tellSession(facts.sessionId);
  }

  #progressOf({ assignmentId }: AssignmentKey): LastProgress {
    const last = this.#lastProgress.get(assignmentId) ?? { atMs: Number.NEGATIVE_INFINITY, eventIds: [] };
    this.#lastProgress.set(assignmentId, last);
    return last;
  }

  async report(deviceId: string, key: AssignmentKey, report: unknown): Promise<void> {
    const { facts, known } = await this.#known.mine(deviceId, key);
    const text = JSON.stringify(report ?? null);
    let problem: OctomilError | undefined;
    try {
      checkReport(facts, report, text);
    } catch (error) {
      if (!(error instanceof OctomilError)) throw error;
      problem = error;
    }
    if (problem !== undefined) {
      await this.#end(deviceId, key, 'failed', problem.toBody());
      throw problem;
    }
    const sha256 = createHash('sha256').update(text).digest('hex');
    const dataSet = this.#known.dataSetOf(facts, known);
    const metrics = { report: report ?? null };
    if (facts.kind === 'describe' && dataSet !== undefined && dataSet.digest !== '') {
      await keepStatistics(this.#on.database, facts.config, {
        deviceId,
        dataSet: dataSet.name,
        digest: dataSet.digest,
        statistics: report as JsonObject,
      });
    }
    const answer: AnswerToStore = {
      updateId: randomUUID(),
      key,
      deviceId,
      format: 'weights',
      objectKey: null,
      sha256,
      sizeBytes: text.length,
      sampleCount: 0,
      weight: 0,
      metrics,
    };
    // By itself: a report may be large.
    const [counted] = await this.#on.store.countAnswers(facts, [
      { answer, event: assignmentEvent(facts, known, { state: 'done' }, 'update') },
    ]);
    if (counted === undefined) {
      const earlier = await this.#updates.earlierVerdict(key, sha256);
      if (earlier?.accepted === true) return;
      await this.#known.refuseToCount(deviceId, key);
    }
    this.#on.tellSession(facts.sessionId);
    void this.#on.driver.wake(facts.id);
  }

  verdictOn(deviceId: string, header: Pick<UpdateHeaderFields, 'key' | 'sha256'>): Promise<Verdict | undefined> {
    return this.#updates.verdictOn(deviceId, header);
  }

  checkHeader(deviceId: string, header: UpdateHeaderFields): Promise<void> {
    return this.#updates.checkHeader(deviceId, header);
  }

  submitUpdate(deviceId: string, header: UpdateHeaderFields, update: UpdateBytes): Promise<Verdict> {
    return this.#updates.submit(deviceId, header, update);
  }

  async baseObject(deviceId: string, sha256: string): Promise<{ objectKey: string; sizeBytes: number }> {
    const grant = this.#grants.get(`${deviceId} ${sha256}`);
    if (grant !== undefined && grant.untilMs > this.#on.clock.now()) {
      return { objectKey: grant.base.objectKey, sizeBytes: grant.base.sizeBytes };
    }
    for (const row of await this.#openOf(deviceId)) {
      if (row.deviceId !== deviceId) continue;
      const facts = await this.#on.facts.of(row.roundId);
      const base = facts === undefined ? undefined : basesOf(facts).find((one) => one.sha256 === sha256);
      if (base !== undefined) return { objectKey: base.objectKey, sizeBytes: base.sizeBytes };
    }
    throw new OctomilError(
      'not_found',
      `no open assignment of this device names a base with sha256 ${sha256.slice(0, 64)}`,
    );
  }
}

/** What a device fetches for a round. */
function basesOf(facts: RoundFacts): StoredFile[] {
  return [facts.base, serverControl(facts)].filter((file) => file !== undefined);
}
