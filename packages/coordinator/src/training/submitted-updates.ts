import { type ErrorCode, isErrorCode, OctomilError } from '@octomil/shared/errors';
import type { UpdateMeasure } from '../aggregation/aggregation-job.js';
import { validateUpdateBytes } from '../aggregation/validate-update.js';
import { isControlledTraining } from './assignment-message.js';
import type { AssignmentKey, UpdateBytes, UpdateHeaderFields, Verdict } from './assignment-port.js';
import type { AnswerToStore, CountedAnswer } from './assignment-store.js';
import type { AssignmentDependencies } from './assignments.js';
import { checkControlNorm, checkLoss, LOST_CONTROL_VARIATE, type UpdateRule, updateRule } from './control-variates.js';
import { storedAnswer, unknownAssignment, whyNot } from './device-answers.js';
import type { NewEvent } from './event-feed.js';
import { Gathering } from './gathering.js';
import { assignmentEvent, type Known, type KnownAssignments } from './known-assignments.js';
import { sha256Of, updateKey } from './object-keys.js';
import type { RoundFacts } from './round-facts.js';
import { checkUpdateBytes, checkUpdateHeader, checkUpdateNorm, updateWeight } from './update-check.js';

/** Looks at updates as they arrive, counts them or says what is wrong with them; each has one verdict for good. */
export class SubmittedUpdates {
  readonly #on: AssignmentDependencies;
  readonly #known: KnownAssignments;
  readonly #counting: Gathering<
    { facts: RoundFacts; answer: AnswerToStore; event: NewEvent },
    CountedAnswer | undefined
  >;

  constructor(dependencies: AssignmentDependencies, known: KnownAssignments) {
    this.#on = dependencies;
    this.#known = known;
    const { store } = dependencies;
    this.#counting = new Gathering(async (_roundId, answers) => {
      const [first] = answers;
      return first === undefined ? [] : store.countAnswers(first.facts, answers);
    });
  }

  async verdictOn(
    deviceId: string,
    { key, sha256 }: Pick<UpdateHeaderFields, 'key' | 'sha256'>,
  ): Promise<Verdict | undefined> {
    const [row] = await this.#on.store.find([key.assignmentId]);
    // While it is open nothing has been decided.
    if (row?.deviceId !== deviceId || row.state === 'open' || row.state === 'accepted') return undefined;
    return this.earlierVerdict(key, sha256);
  }

  async checkHeader(deviceId: string, header: UpdateHeaderFields): Promise<void> {
    const [row] = await this.#on.store.find([header.key.assignmentId]);
    const problem = whyNot(row, deviceId, header.key);
    if (row === undefined || problem !== undefined) throw problem ?? unknownAssignment(header.key);
    this.#known.remember(row);
    const { facts } = await this.#known.mine(deviceId, header.key);
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

  async submit(deviceId: string, header: UpdateHeaderFields, update: UpdateBytes): Promise<Verdict> {
    const { key } = header;
    // What this process has not handled before may have been decided by one that was killed, or by another coordinator.
    const earlier = this.#known.has(key) ? undefined : await this.verdictOn(deviceId, header);
    if (earlier !== undefined) return earlier;
    const { facts, known } = await this.#known.mine(deviceId, key);
    try {
      await this.#check(facts, deviceId, header, update);
    } catch (error) {
      if (!(error instanceof OctomilError) || !REJECTIONS.has(error.code)) throw error;
      return this.#reject(facts, known, header, error);
    }
    const objectKey = updateKey(facts.id, key.assignmentId, header.sha256);
    if ('bytes' in update) await this.#on.objects.put(objectKey, update.bytes);
    else await this.#on.objects.putFile(objectKey, update.path);
    const declaredRows = this.#known.dataSetOf(facts, known)?.rowCount ?? 0;
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
      return (await this.earlierVerdict(key, header.sha256)) ?? this.#known.refuseToCount(deviceId, key);
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
      const earlier = await this.earlierVerdict(key, header.sha256);
      return earlier ?? this.#known.refuseToCount(known.deviceId, key);
    }
    this.#on.logger.warn({ roundId: facts.id, device: known.deviceName, ...label }, 'an update was rejected');
    this.#on.tellSession(facts.sessionId);
    void this.#on.driver.wake(facts.id);
    return { accepted: false, reason: error.toBody() };
  }

  /** The first verdict on these very bytes, or that another update of the device counts. */
  async earlierVerdict(key: AssignmentKey, sha256: string): Promise<Verdict | undefined> {
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
}

/** What is the update's own fault; anything else (a full disk, a lost database) is ours, and it may be sent again. */
const REJECTIONS: ReadonlySet<ErrorCode> = new Set([
  'update_rejected',
  'checksum_mismatch',
  'corrupt_file',
  'too_large',
]);
