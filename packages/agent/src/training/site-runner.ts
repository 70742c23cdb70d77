import { createHash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Assignment } from '@octomil/proto';
import { pathsOf } from '@octomil/shared/data';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { notAllowed, readCode, type Trainer } from '@octomil/shared/training';
import type { AuditLog } from '../audit/audit-log.js';
import type { FailureEntries } from '../audit/failure-entries.js';
import type { Eligibility } from '../conditions/eligibility.js';
import type { AgentConfig } from '../config/agent-config.js';
import type { BaseStore } from '../models/base-store.js';
import { decide, isCodeAllowed, type PolicyDecision } from '../policy/policy.js';
import type { QuestionLog } from '../policy/question-log.js';
import { questionOfSpec } from '../policy/spec-question.js';
import { allowedStatistics, columnsOfTask } from '../policy/task-columns.js';
import {
  type AssignmentKey,
  type Journal,
  keyText,
  type Outcome,
  type PendingUpload,
  type WorkContext,
} from '../state/journal.js';
import type { AssignmentRunner, Line } from './assignments.js';
import type { ControlVariates, HeldControlVariates } from './control-variates.js';
import { outgoingProblem } from './outgoing-problem.js';
import { isWhole, pendingUpload } from './pending-upload.js';
import { type ProgressStep, ProgressThrottle, repeatUntilStopped, trainStep } from './progress.js';
import {
  type AllowedCode,
  chooseDataSet,
  parseTaskJson,
  readsData,
  type TaskJson,
  toTrainerTask,
  trainerOf,
} from './task.js';
import { auditOf, UpdateDelivery } from './update-delivery.js';
import type { Uploader } from './upload.js';
import type { Work } from './work.js';

export interface SiteRunnerOptions {
  readonly config: Pick<AgentConfig, 'policy' | 'dataSets' | 'trainers'>;
  readonly updatesPath: string;
  /** Where the site's own code runs. */
  readonly workPath: string;
  /** What of models is this site's own. */
  readonly personalPath: string;
  readonly controlVariates: Pick<ControlVariates, 'hold'>;
  readonly journal: Journal;
  readonly bases: BaseStore;
  readonly trainer: Trainer;
  readonly uploader: Uploader;
  readonly audit: Pick<AuditLog, 'record'>;
  readonly failures: Pick<FailureEntries, 'record'>;
  readonly eligibility: Pick<Eligibility, 'unmet'>;
  readonly questions: Pick<QuestionLog, 'answer' | 'count'>;
  /** Of a data set as it is now. @throws OctomilError `data_unreadable` when it cannot be read */
  readonly digestOf: (dataSet: string) => Promise<string>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onUploaded?: (sizeBytes: number) => void;
}

/** For an assignment without one. */
const DEFAULT_DEADLINE_MS = 24 * 3_600_000;
/** For an assignment without one. */
const DEFAULT_NO_PROGRESS_MS = 60_000;
/** Sessions whose last base is remembered. */
const REMEMBERED_SESSIONS = 64;

/** Does what an assignment asks, within the site's policy and with an audit entry for everything that leaves. */
export class SiteRunner implements AssignmentRunner {
  readonly #options: SiteRunnerOptions;
  readonly #delivery: UpdateDelivery;
  readonly #baseOfSession = new Map<string, string>();

  constructor(options: SiteRunnerOptions) {
    this.#options = options;
    this.#delivery = new UpdateDelivery(options);
  }

  async run(assignment: Assignment, work: Work, line: Line): Promise<Outcome> {
    const { config, clock, logger } = this.#options;
    const deadlineMs = Number(assignment.deadlineMs) || DEFAULT_DEADLINE_MS;
    const callOffDeadline = clock.after(deadlineMs, () =>
      work.cancel(new OctomilError('request_timeout', `the round's deadline of ${deadlineMs} ms passed`)),
    );
    let context: WorkContext | undefined;
    try {
      const json = parseTaskJson(assignment.taskJson);
      const dataSet = this.#dataSetOf(assignment, json);
      const question = { federation: assignment.federation, model: assignment.modelName, dataSet };
      const decision = decide(config.policy, {
        ...question,
        columns: columnsOfTask(assignment.kind, json),
        nowMs: clock.now(),
      });
      if (!decision.allowed) {
        const { problem } = decision;
        logger.warn({ ...work.key, ...question, error: problem }, `assignment refused: ${problem.reason}`);
        return { kind: 'refused', problem: problem.toBody() };
      }
      const unmet = await this.#unmetCondition(assignment.kind);
      if (unmet !== undefined) {
        logger.info({ ...work.key, ...question, error: unmet }, `assignment refused: ${unmet.reason}`);
        return { kind: 'refused', problem: unmet.toBody() };
      }
      const own = await this.#ownCode(assignment, json);
      context = {
        federation: assignment.federation,
        model: assignment.modelName,
        roundNumber: assignment.roundNumber,
        dataSet: dataSet ?? null,
        rule: decision.rule,
      };
      logger.info({ ...work.key, ...context, kind: assignment.kind }, 'assignment accepted');
      line.send({
        case: 'assignmentAnswer',
        value: { assignment: { ...work.key }, answer: { case: 'accepted', value: {} } },
      });
      const allowed = { columns: decision.columns, own };
      return await this.#do(assignment, json, context, allowed, clock.now() + deadlineMs, work, line);
    } catch (thrown) {
      const about = { federation: assignment.federation, model: assignment.modelName, round: assignment.roundNumber };
      return await this.#unsuccessful(thrown, work, about, context);
    } finally {
      callOffDeadline();
    }
  }

  async resume(upload: PendingUpload, work: Work, line: Line): Promise<Outcome | undefined> {
    const { config, clock, journal, logger } = this.#options;
    const remainingMs = upload.deadlineAtMs - clock.now();
    if (remainingMs <= 0) {
      return { kind: 'cancelled', problem: { code: 'request_timeout', message: "the round's deadline passed" } };
    }
    const { federation, model, dataSet, roundNumber } = upload.context;
    // The site may have withdrawn its consent while the agent was down: what was made then does not leave now.
    const ruled = decide(config.policy, {
      ...{ federation, model, dataSet: dataSet ?? undefined },
      ...(upload.columns === undefined ? {} : { columns: upload.columns }),
    });
    const { code } = upload;
    const decision: PolicyDecision =
      ruled.allowed && code !== undefined && !isCodeAllowed(config.policy, code.trainer, code.sha256)
        ? { allowed: false, problem: notAllowed(code.trainer, code.sha256) }
        : ruled;
    if (!decision.allowed) {
      const { problem } = decision;
      logger.warn(
        { ...upload.key, ...upload.context, error: problem },
        `the upload of an earlier run is refused: ${problem.reason}`,
      );
      await journal.remove(upload.key);
      await this.clean(upload.key);
      return { kind: 'refused', problem: problem.toBody() };
    }
    const context = { ...upload.context, rule: decision.rule };
    const callOffDeadline = clock.after(remainingMs, () =>
      work.cancel(new OctomilError('request_timeout', "the round's deadline passed")),
    );
    try {
      if (!(await isWhole(upload))) {
        logger.warn(
          { ...upload.key, path: upload.path },
          'the update of an earlier run is lost; it is made again if asked',
        );
        await journal.remove(upload.key);
        await this.clean(upload.key);
        return undefined;
      }
      logger.info({ ...upload.key, sizeBytes: upload.sizeBytes }, 'resuming the upload of an earlier run');
      return await this.#delivery.deliver({ ...upload, context }, work, line, true);
    } catch (thrown) {
      return await this.#unsuccessful(thrown, work, { federation, model, round: roundNumber }, context);
    } finally {
      callOffDeadline();
    }
  }

  async clean(key: AssignmentKey): Promise<void> {
    await rm(this.#updatePath(key), { force: true });
  }

  /**
   * The outcome of work that threw, with an audit entry for the failure that leaves.
   *
   * @throws what was thrown, where the work was cancelled
   */
  async #unsuccessful(
    thrown: unknown,
    work: Work,
    about: { readonly federation: string; readonly model: string; readonly round: number },
    context: WorkContext | undefined,
  ): Promise<Outcome> {
    if (work.signal.aborted) throw thrown;
    const { config, failures, logger } = this.#options;
    const paths = Object.values(config.dataSets).flatMap(pathsOf);
    const columnsAreListed = config.policy.allow.some(
      ({ name, columns }) => name === context?.rule && columns !== undefined,
    );
    const error = outgoingProblem(toOctomilError(thrown, 'training_failed'), paths, columnsAreListed);
    if (error.code === 'policy_denied') {
      logger.warn({ ...work.key, ...context, error }, `assignment refused: ${error.reason}`);
      return { kind: 'refused', problem: error.toBody() };
    }
    logger.error({ ...work.key, error: thrown }, `assignment failed: ${error.reason}`);
    const mayTell = await failures.record({
      kind: 'failure',
      assignmentId: work.key.assignmentId,
      ...about,
      ...(context === undefined ? {} : { rule: context.rule, dataSet: context.dataSet }),
      details: { code: error.code, message: error.reason },
    });
    return { kind: 'failed', problem: mayTell ? error.toBody() : untold(error).toBody() };
  }

  /** A session's rounds only go forward: the base before this one is not asked for again. */
  async #dropSuperseded(sessionId: string, sha256: string): Promise<void> {
    const before = this.#baseOfSession.get(sessionId);
    if (before === sha256) return;
    this.#baseOfSession.delete(sessionId);
    this.#baseOfSession.set(sessionId, sha256);
    const oldest = this.#baseOfSession.keys().next();
    if (this.#baseOfSession.size > REMEMBERED_SESSIONS && oldest.done === false)
      this.#baseOfSession.delete(oldest.value);
    if (before !== undefined) await this.#options.bases.drop(before);
  }

  /** A description is read once and light; without it the site would be left out of the whole session. */
  async #unmetCondition(kind: string): Promise<OctomilError | undefined> {
    return kind === 'describe' ? undefined : await this.#options.eligibility.unmet('training');
  }

  /**
   * The site's own code where the assignment asks for it: by its name, or in place of tfjs.
   *
   * @throws OctomilError `policy_denied` naming the digest that the code has now
   */
  async #ownCode(assignment: Assignment, json: TaskJson): Promise<AllowedCode | undefined> {
    const { config, workPath } = this.#options;
    if (assignment.kind !== 'train') return undefined;
    const name = trainerOf(json);
    const code = Object.hasOwn(config.trainers, name) ? config.trainers[name] : undefined;
    if (code === undefined) return undefined;
    const { sha256 } = await readCode(code);
    if (!isCodeAllowed(config.policy, name, sha256)) throw notAllowed(name, sha256);
    return { code, sha256, workPath };
  }

  #updatePath(key: AssignmentKey): string {
    return join(this.#options.updatesPath, `${keyText(key)}.safetensors`);
  }

  /** Echo takes part without data where the site has none. */
  #dataSetOf(assignment: Assignment, json: TaskJson): string | undefined {
    const { dataSets } = this.#options.config;
    if (!readsData(assignment, json) && Object.keys(dataSets).length === 0) return undefined;
    return chooseDataSet(dataSets, assignment.dataSet);
  }

  async #do(
    assignment: Assignment,
    json: TaskJson,
    context: WorkContext,
    allowed: { readonly columns: readonly string[] | undefined; readonly own: AllowedCode | undefined },
    deadlineAtMs: number,
    work: Work,
    line: Line,
  ): Promise<Outcome> {
    const { bases, trainer, config, clock, audit } = this.#options;
    const { signal, key } = work;
    const throttle = new ProgressThrottle(clock, ({ loss, ...step }) =>
      line.send({
        case: 'progress',
        value: {
          assignment: { ...key },
          phase: step.phase,
          completed: BigInt(Math.round(step.completed)),
          total: BigInt(Math.round(step.total)),
          ...(loss === undefined ? {} : { loss }),
        },
      }),
    );
    const source = context.dataSet === null ? undefined : config.dataSets[context.dataSet];
    const audited = { ...auditOf(key, context) };
    const base = assignment.base === undefined || assignment.kind === 'describe' ? undefined : assignment.base;
    const totalBytes = Number(base?.sizeBytes ?? 0n);
    if (base !== undefined) await this.#dropSuperseded(assignment.sessionId, base.sha256);
    const held =
      base === undefined
        ? undefined
        : await bases.hold({ sha256: base.sha256, sizeBytes: totalBytes }, signal, (completed) =>
            throttle.report({ phase: 'download', completed, total: totalBytes }),
          );
    const noProgressMs = Number(assignment.noProgressMs) || DEFAULT_NO_PROGRESS_MS;
    let latest: ProgressStep = { phase: 'load', completed: 0, total: 0 };
    const stopTelling = repeatUntilStopped(clock, noProgressMs / 3, () => throttle.report(latest));
    let control: HeldControlVariates | undefined;
    try {
      control = await this.#options.controlVariates.hold(assignment, json, key, signal);
      const task = toTrainerTask(assignment, json, {
        source,
        basePath: held?.path ?? '',
        outputPath: this.#updatePath(key),
        own: allowed.own,
        personal: { path: this.#options.personalPath, dataSet: context.dataSet ?? '' },
        controlVariates: control?.files,
      });
      const { questions, digestOf } = this.#options;
      const dataSet = context.dataSet ?? '';
      if (task.kind === 'describe') {
        const answer = await questions.answer(dataSet, await digestOf(dataSet), task, async () =>
          JSON.stringify(await trainer.run(task, { signal })),
        );
        const statistics = allowedStatistics(answer, allowed.columns);
        signal.throwIfAborted();
        await audit.record({
          ...audited,
          kind: 'statistics',
          sizeBytes: Buffer.byteLength(statistics),
          sha256: sha256Of(statistics),
        });
        return { kind: 'reported', json: statistics };
      }
      const question = 'featureSpec' in task ? questionOfSpec(task.featureSpec) : undefined;
      if (question !== undefined) await questions.count(dataSet, await digestOf(dataSet), question);
      if (task.kind === 'evaluate') {
        const metrics = await trainer.run(task, { signal });
        await audit.record({ ...audited, kind: 'evaluation', details: { metrics } });
        return { kind: 'reported', json: JSON.stringify(metrics) };
      }
      const startedAtMs = clock.now();
      let progressAudit: Promise<void> | undefined;
      const result = await trainer.run(task, {
        signal,
        onProgress: (progress) => {
          if (task.trainer === 'own') {
            // Steps alone: of how many rows its loss is, nobody here knows. They are repeated, since it may be silent for long.
            latest = { phase: 'train', completed: progress.step, total: progress.totalSteps };
            return throttle.report(latest);
          }
          stopTelling();
          if (task.trainer !== 'tfjs') return;
          // Losses go out under one entry per assignment, written before the first of them.
          progressAudit ??= audit.record({ ...audited, kind: 'progress' });
          void progressAudit.then(
            () => throttle.report(trainStep(progress)),
            () => undefined,
          );
        },
      });
      stopTelling();
      const reason = result.personalization?.reason;
      if (reason !== undefined) {
        this.#options.logger.warn(
          { ...key, ...context },
          `the personal part of the model starts from the base: ${reason}`,
        );
      }
      await control?.keep(result.update.sha256);
      const elapsedMs = clock.now() - startedAtMs;
      const alsoTold = control?.lost === true ? { controlVariateLost: true } : {};
      const upload = pendingUpload(key, context, task.updateFormat, result, deadlineAtMs, elapsedMs, alsoTold);
      const columns = columnsOfTask(assignment.kind, json);
      const { own } = allowed;
      const code = own === undefined ? {} : { code: { trainer: own.code.name, sha256: own.sha256 } };
      return await this.#delivery.deliver({ ...upload, columns, ...code }, work, line, false, throttle);
    } finally {
      stopTelling();
      held?.release();
      control?.release();
    }
  }
}

/** The code alone: the audit log would not have the words. */
function untold({ code }: OctomilError): OctomilError {
  return new OctomilError(
    code,
    "many different things failed here within an hour; the reason is in the agent's own log",
  );
}

function sha256Of(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
