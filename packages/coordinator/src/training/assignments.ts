import { createHash, randomUUID } from 'node:crypto';
import type { Assignment } from '@octomil/proto';
import { type ErrorBody, type ErrorCode, isErrorCode, OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { UpdateMeasure } from '../aggregation/aggregation-job.js';
import { validateUpdateBytes } from '../aggregation/validate-update.js';
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
import type { AnswerToStore, AssignmentRow, AssignmentStore, CountedAnswer } from './assignment-store.js';
import type { BaseLayouts } from './base-layouts.js';
import { BoundedMap } from './bounded-map.js';
import {
  checkControlNorm,
  checkLoss,
  LOST_CONTROL_VARIATE,
  serverControl,
  type UpdateRule,
  updateRule,
} from './control-variates.js';
import { keepStatistics } from './describe-cache.js';
import { checkReport, storedAnswer, unknownAssignment, wholeNumber, whyNot } from './device-answers.js';
import { findDataSet } from './eligibility.js';
import type { NewEvent } from './event-feed.js';
import { Gathering } from './gathering.js';
import { sha256Of, updateKey } from './object-keys.js';
import type { StoredFile, TrainingAggregator } from './ports.js';
import type { RoundDriver } from './round-driver.js';
import type { RoundFacts, RoundFactsReader } from './round-facts.js';
import { roundLabel } from './round-store.js';
import { readSite, type SiteDataSet } from './site-summary.js';
import { checkUpdateBytes, checkUpdateHeader, checkUpdateNorm, updateWeight } from './update-check.js';

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

/** What never changes about an assignment, and what its device declared when it was last read. */
interface Known {
  readonly roundId: string;
  readonly deviceId: string;
  readonly deviceName: string;
  readonly site: unknown;
}

/** Progress is kept and told at most this often: well within the shortest lease, `NO_PROGRESS_MINIMUM_SECONDS`. */
const PROGRESS_EVERY_MS = 1_000;
/** How long a base may be fetched without another look at the assignment that named it. */
const BASE_GRANT_MS = 2_000;

/** The training engine as the device sessions see it. */
export class Assignments implements AssignmentPort {
  readonly #on: AssignmentDependencies;
  readonly #known = new BoundedMap<string, Known>(20_000);
  readonly #lastProgress = new BoundedMap<string, number>(20_000);
  /** Bases that devices were just told to fetch, by device and digest: most ask for them within milliseconds. */
  readonly #grants = new BoundedMap<string, { base: StoredFile; untilMs: number }>(20_000);
  readonly #accepting: Gathering<{ facts: RoundFacts; deviceId: string; key: AssignmentKey }, boolean>;
  readonly #counting: Gathering<
    { facts: RoundFacts; answer: AnswerToStore; event: NewEvent },
    CountedAnswer | undefined
  >;
  #asking: { deviceIds: Set<string>; rows: Promise<AssignmentRow[]> } | undefined;

  constructor(dependencies: AssignmentDependencies) {
    this.#on = dependencies;
    const { store } = dependencies;
    this.#accepting = new Gathering(async (_roundId, accepted) => {
      const [first] = accepted;
      return first === undefined ? [] : store.accept(first.facts, accepted);
    });
    this.#counting = new Gathering(async (_roundId, answers) => {
      const [first] = answers;
      return first === undefined ? [] : store.countAnswers(first.facts, answers);
    });
  }

  async openAssignments(deviceId: string): Promise<Assignment[]> {
    const rows = (await this.#openOf(deviceId)).filter((row) => row.deviceId === deviceId);
    const messages: Assignment[] = [];
    for (const row of rows) {
      this.#remember(row);
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
    const { facts } = await this.#mine(deviceId, key);
    if (await this.#accepting.add(facts.id, { facts, deviceId, key })) {
      // It renewed the lease; a short task is over before anybody could look at its progress.
      this.#lastProgress.set(key.assignmentId, this.#on.clock.now());
      return;
    }
    await this.#refuseToCount(deviceId, key);
  }

  async refuse(deviceId: string, key: AssignmentKey, problem: ErrorBody): Promise<void> {
    await this.#end(deviceId, key, 'refused', problem);
  }

  async fail(deviceId: string, key: AssignmentKey, problem: ErrorBody): Promise<void> {
    await this.#end(deviceId, key, 'failed', problem);
  }

  async #end(deviceId: string, key: AssignmentKey, state: 'refused' | 'failed', problem: ErrorBody): Promise<void> {
    const { facts, known } = await this.#mine(deviceId, key);
    const reason = `[${problem.code}] ${problem.message}`.slice(0, 1_000).toWellFormed();
    const events = [assignmentEvent(facts, known, { state, reason_code: problem.code, reason })];
    if (!(await this.#on.store.finish(facts, deviceId, key, { state, code: problem.code, reason }, events))) {
      await this.#refuseToCount(deviceId, key);
    }
    this.#on.tellSession(facts.sessionId);
    void this.#on.driver.wake(facts.id);
  }

  async progress(
    deviceId: string,
    key: AssignmentKey,
    step: { phase: string; completed: number; total: number; loss?: number },
  ): Promise<void> {
    const { facts, known } = await this.#mine(deviceId, key);
    const nowMs = this.#on.clock.now();
    const lastMs = this.#lastProgress.get(key.assignmentId);
    // One that this process has not heard of, such as after a restart, is kept at once: its lease may be running out.
    if (lastMs !== undefined && nowMs - lastMs < PROGRESS_EVERY_MS) return;
    this.#lastProgress.set(key.assignmentId, nowMs);
    const phase = step.phase.slice(0, 40).toWellFormed();
    const counts = { completed: wholeNumber(step.completed), total: wholeNumber(step.total) };
    const loss = Number.isFinite(step.loss) ? { loss: step.loss } : {};
    const event = assignmentEvent(facts, known, { state: 'accepted', phase, ...counts, ...loss });
    if (!(await this.#on.store.progress(facts, deviceId, key, { phase, ...counts }, event))) {
      await this.#refuseToCount(deviceId, key);
    }
    this.#on.tellSession(facts.sessionId);
  }

  async report(deviceId: string, key: AssignmentKey, report: unknown): Promise<void> {
    const { facts, known } = await this.#mine(deviceId, key);
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
    const dataSet = this.#dataSetOf(facts, known);
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
      const earlier = await this.#earlierVerdict(key, sha256);
      if (earlier?.accepted === true) return;
      await this.#refuseToCount(deviceId, key);
    }
    this.#on.tellSession(facts.sessionId);
    void this.#on.driver.wake(facts.id);
  }

  async verdictOn(
    deviceId: string,
    { key, sha256 }: Pick<UpdateHeaderFields, 'key' | 'sha256'>,
  ): Promise<Verdict | undefined> {
    const [row] = await this.#on.store.find([key.assignmentId]);
    // While it is open nothing has been decided.
    if (row?.deviceId !== deviceId || row.state === 'open' || row.state === 'accepted') return undefined;
    return this.#earlierVerdict(key, sha256);
  }

  async checkHeader(deviceId: string, header: UpdateHeaderFields): Promise<void> {
    const [row] = await this.#on.store.find([header.key.assignmentId]);
    const problem = whyNot(row, deviceId, header.key);
    if (row === undefined || problem !== undefined) throw problem ?? unknownAssignment(header.key);
    this.#remember(row);
    const { facts } = await this.#mine(deviceId, header.key);
    await this.#checkHeader(facts, deviceId, header);
  }

  async #checkHeader(facts: RoundFacts, deviceId: string, header: UpdateHeaderFields): Promise<UpdateRule> {
    const model = await this.#on.layouts.of(facts);
    if (model === undefined) throw new OctomilError('update_rejected', `round ${facts.number} takes no updates`);
    const rule = updateRule(facts.config, model);
    checkUpdateHeader(header, facts, rule.layout);
    if (isControlledTraining(facts) && header.metrics[LOST_CONTROL_VARIATE] === true) {
      const [lastFolded, losses] = await Promise.all([
        this.#on.store.lastFolded(facts.sessionId, deviceId),
        this.#on.store.losses(facts.sessionId, deviceId),
      ]);
      checkLoss({ isCountedOn: lastFolded !== undefined, losses });
    }
    return rule;
  }

  async submitUpdate(deviceId: string, header: UpdateHeaderFields, update: UpdateBytes): Promise<Verdict> {
    const { key } = header;
    // What this process has not handled before may have been decided by one that was killed, or by another coordinator.
    const earlier =
      this.#known.get(key.assignmentId) === undefined ? await this.verdictOn(deviceId, header) : undefined;
    if (earlier !== undefined) return earlier;
    const { facts, known } = await this.#mine(deviceId, key);
    try {
      await this.#check(facts, deviceId, header, update);
    } catch (error) {
      if (!(error instanceof OctomilError) || !REJECTIONS.has(error.code)) throw error;
      return this.#reject(facts, known, header, error);
    }
    const objectKey = updateKey(facts.id, key.assignmentId, header.sha256);
    if ('bytes' in update) await this.#on.objects.put(objectKey, update.bytes);
    else await this.#on.objects.putFile(objectKey, update.path);
    const declaredRows = this.#dataSetOf(facts, known)?.rowCount ?? 0;
    const answer = {
      ...storedAnswer(deviceId, header),
      objectKey,
      weight: updateWeight(header.sampleCount, declaredRows),
    };
    const event = assignmentEvent(
      facts,
      known,
      {
        state: 'accepted',
        sample_count: header.sampleCount,
        size_bytes: header.sizeBytes,
        train_loss: typeof header.metrics['trainLoss'] === 'number' ? header.metrics['trainLoss'] : null,
        min_updates: facts.minUpdates,
      },
      'update',
    );
    const counted = await this.#counting.add(facts.id, { facts, answer, event });
    if (counted === undefined) {
      // The object stays until retention finds it without a row: the same bytes may just be being accepted elsewhere.
      return (await this.#earlierVerdict(key, header.sha256)) ?? this.#refuseToCount(deviceId, key);
    }
    // Durable from here on. Who waits for the verdict need not wait for what follows.
    if (counted.last && counted.nth >= facts.minUpdates) void this.#on.driver.quorumReached(facts);
    this.#on.tellSession(facts.sessionId);
    return { accepted: true };
  }

  /** @throws a code of REJECTIONS when the update is at fault */
  async #check(facts: RoundFacts, deviceId: string, header: UpdateHeaderFields, update: UpdateBytes): Promise<void> {
    const { layout, measuredFrom } = await this.#checkHeader(facts, deviceId, header);
    let measure: UpdateMeasure;
    if ('bytes' in update) {
      checkUpdateBytes(header, { sha256: sha256Of(update.bytes), sizeBytes: update.bytes.length });
      measure = validateUpdateBytes(update.bytes, layout, measuredFrom);
    } else {
      measure = await this.#on.aggregator.validate({ path: update.path, layout, measuredFrom });
      checkUpdateBytes(header, { sha256: update.sha256, sizeBytes: measure.sizeBytes });
    }
    checkUpdateNorm(measure, facts);
    checkControlNorm(measure, facts);
  }

  async #reject(facts: RoundFacts, known: Known, header: UpdateHeaderFields, error: OctomilError): Promise<Verdict> {
    const { key } = header;
    const reason = error.reason.slice(0, 1_000).toWellFormed();
    const label = { reason_code: error.code, reason };
    const kept = await this.#on.store.finish(
      facts,
      known.deviceId,
      key,
      {
        state: 'failed',
        code: error.code,
        reason,
        rejected: { ...storedAnswer(known.deviceId, header), objectKey: null, weight: 0 },
      },
      [
        assignmentEvent(facts, known, { state: 'rejected', ...label }, 'update'),
        assignmentEvent(facts, known, { state: 'failed', ...label }),
      ],
    );
    if (!kept) {
      const earlier = await this.#earlierVerdict(key, header.sha256);
      return earlier ?? this.#refuseToCount(known.deviceId, key);
    }
    this.#on.logger.warn({ roundId: facts.id, device: known.deviceName, ...label }, 'an update was rejected');
    this.#on.tellSession(facts.sessionId);
    void this.#on.driver.wake(facts.id);
    return { accepted: false, reason: error.toBody() };
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

  /** The first verdict on these very bytes, or that another update of the device counts. */
  async #earlierVerdict(key: AssignmentKey, sha256: string): Promise<Verdict | undefined> {
    const updates = await this.#on.store.updatesOf(key.assignmentId);
    const same = updates.find((update) => update.sha256 === sha256);
    if (same?.state === 'accepted') return { accepted: true };
    const counted = updates.find((update) => update.state === 'accepted');
    if (counted !== undefined) {
      const message = `another update of this device (sha256 ${counted.sha256}) counts in this round already`;
      return { accepted: false, reason: { code: 'update_rejected', message } };
    }
    if (same?.state !== 'rejected') return undefined;
    const code: ErrorCode = isErrorCode(same.reasonCode) ? same.reasonCode : 'update_rejected';
    return { accepted: false, reason: { code, message: same.reason ?? 'the update was rejected' } };
  }

  /** Says why an assignment does not count (any more). */
  async #refuseToCount(deviceId: string, key: AssignmentKey): Promise<never> {
    const [row] = await this.#on.store.find([key.assignmentId]);
    throw (
      whyNot(row, deviceId, key) ??
      new OctomilError('round_closed', 'the training session does not run; nothing is accepted until it is resumed')
    );
  }

  async #mine(deviceId: string, key: AssignmentKey): Promise<{ facts: RoundFacts; known: Known }> {
    let known = this.#known.get(key.assignmentId);
    if (known === undefined) {
      const [row] = await this.#on.store.find([key.assignmentId]);
      if (row !== undefined) known = this.#remember(row);
    }
    const facts = known === undefined ? undefined : await this.#on.facts.of(known.roundId);
    if (known?.deviceId !== deviceId || facts === undefined) throw unknownAssignment(key);
    return { facts, known };
  }

  #remember({ id, roundId, deviceId, deviceName, site }: AssignmentRow): Known {
    const known = { roundId, deviceId, deviceName, site };
    this.#known.set(id, known);
    return known;
  }

  #dataSetOf(facts: RoundFacts, { site }: Known): SiteDataSet | undefined {
    const summary = readSite(site);
    if (summary === undefined || facts.config.trainer === 'echo') return undefined;
    const found = findDataSet(summary, facts.config.dataSet);
    return typeof found === 'string' ? undefined : found;
  }
}

/** What a device fetches for a round. */
function basesOf(facts: RoundFacts): StoredFile[] {
  return [facts.base, serverControl(facts)].filter((file) => file !== undefined);
}

/** What is the update's own fault; anything else (a full disk, a lost database) is ours, and it may be sent again. */
const REJECTIONS: ReadonlySet<ErrorCode> = new Set([
  'update_rejected',
  'checksum_mismatch',
  'corrupt_file',
  'too_large',
]);

function assignmentEvent(
  facts: RoundFacts,
  known: Known,
  data: JsonObject,
  type: 'assignment' | 'update' = 'assignment',
): NewEvent {
  return { type, data: { ...roundLabel(facts), device_id: known.deviceId, device: known.deviceName, ...data } };
}
