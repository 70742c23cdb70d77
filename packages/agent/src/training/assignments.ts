import type { Assignment, ProblemNotice } from '@octomil/proto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { fromProblem } from '../connection/problem.js';
import type { IncomingEvent, OutgoingEvent, SessionDelegate, SessionLink } from '../session/session-link.js';
import { type AssignmentKey, type Journal, keyText, type Outcome, type PendingUpload } from '../state/journal.js';
import { Answers, answerOf, failureOf } from './answers.js';
import { outgoingProblem } from './outgoing-problem.js';
import { STOPPING, Work } from './work.js';

/** Does the work of one assignment; the manager says what becomes of it. */
export interface AssignmentRunner {
  /** @returns how it ended @throws OctomilError when it failed or was cancelled */
  run(assignment: Assignment, work: Work, line: Line): Promise<Outcome>;
  /** Takes up an update that an earlier process left; undefined when its file is lost. */
  resume(upload: PendingUpload, work: Work, line: Line): Promise<Outcome | undefined>;
  /** Removes what the work left on disk. */
  clean(key: AssignmentKey): Promise<void>;
}

/** The way to the coordinator, whichever session it is at the moment. */
export interface Line {
  /** Lost without a session: for what may be lost (acceptance, progress). */
  send(event: OutgoingEvent): void;
  /** Asks now and with every new session until the work has its answer. */
  ask(work: Work, event: OutgoingEvent): void;
  /** The current session, or the next one. */
  link(signal: AbortSignal): Promise<SessionLink>;
}

export interface AssignmentsOptions {
  readonly journal: Journal;
  readonly runner: AssignmentRunner;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onOutcome?: (kind: Outcome['kind']) => void;
}

/** Notices that end the work they name: the coordinator will take nothing more for it. */
const ENDING: ReadonlySet<string> = new Set(['round_closed', 'assignment_not_found', 'superseded', 'policy_denied']);
const ASK_AGAIN_MS = 2_000;

/** All assignments of this device: begun once, answered as often as asked, cancelled when they no longer count. */
export class Assignments implements SessionDelegate, Line {
  readonly #options: AssignmentsOptions;
  readonly #works = new Map<string, Work>();
  /** Works that run, and those whose outcome is being written down. */
  readonly #unfinished = new Set<Promise<void>>();
  readonly #answers = new Answers();
  #link: SessionLink | undefined;
  #linked = Promise.withResolvers<SessionLink>();
  #stopping = false;

  constructor(options: AssignmentsOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#works.size;
  }

  /** Takes up the uploads that an earlier process left. */
  start(): void {
    const { journal, runner } = this.#options;
    for (const upload of journal.pendingUploads()) {
      const work = new Work(upload.key);
      this.#begin(work, () => runner.resume(upload, work, this));
    }
  }

  inProgress(): { assignmentId: string; attempt: number }[] {
    return [...this.#works.values()].map(({ key }) => ({ assignmentId: key.assignmentId, attempt: key.attempt }));
  }

  connected(link: SessionLink): void {
    this.#link = link;
    this.#linked.resolve(link);
    this.#answers.connected(link);
    for (const { question } of this.#works.values()) if (question !== undefined) link.send(question);
  }

  disconnected(): void {
    this.#link = undefined;
    this.#linked = Promise.withResolvers();
    this.#answers.disconnected();
  }

  renewalSent(): void {
    this.#answers.renewalSent();
  }

  renewalAnswered(): void {
    this.#answers.renewalAnswered();
  }

  send(event: OutgoingEvent): void {
    this.#link?.send(event);
  }

  ask(work: Work, event: OutgoingEvent): void {
    work.question = event;
    this.#link?.send(event);
  }

  async link(signal: AbortSignal): Promise<SessionLink> {
    signal.throwIfAborted();
    if (this.#link !== undefined) return this.#link;
    const aborted = Promise.withResolvers<never>();
    const onAbort = (): void => aborted.reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([this.#linked.promise, aborted.promise]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  received(event: IncomingEvent): void {
    switch (event.case) {
      case 'assignment':
        this.#assigned(event.value);
        return;
      case 'assignmentCancelled': {
        const reason = fromProblem(event.value.reason);
        this.#workOf(event.value.assignment)?.cancel(reason);
        return;
      }
      case 'updateVerdict': {
        const { verdict } = event.value;
        this.#workOf(event.value.assignment)?.judged(
          verdict.case === 'accepted'
            ? { accepted: true }
            : { accepted: false, problem: fromProblem(verdict.case === 'rejected' ? verdict.value : undefined) },
        );
        return;
      }
      case 'uploadTicket':
        this.#workOf(event.value.assignment)?.ticketed(event.value);
        return;
      case 'problemNotice':
        this.#noticed(event.value);
        return;
      // The session's own business, and what only a newer coordinator says.
      case 'welcome':
      case 'leaseRenewed':
      case 'superseded':
      case 'desiredState':
      case 'observedReceipt':
      case undefined:
        return;
    }
  }

  /** Waits up to `graceMs` for what runs, then abandons it. Nothing new is begun. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    const all = Promise.allSettled(this.#unfinished);
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const callOff = this.#options.clock.after(graceMs, resolve);
    await Promise.race([all, late]);
    callOff();
    for (const work of this.#works.values()) work.cancel(STOPPING);
    await all;
  }

  #workOf(ref: { assignmentId: string; attempt: number } | undefined): Work | undefined {
    return ref === undefined ? undefined : this.#works.get(keyText(ref));
  }

  #assigned(assignment: Assignment): void {
    const { journal, logger, runner } = this.#options;
    const { ref } = assignment;
    if (ref === undefined || this.#stopping) return;
    const key: AssignmentKey = { assignmentId: ref.assignmentId, attempt: ref.attempt };
    if (!/^[\w-]{1,128}$/.test(key.assignmentId)) {
      logger.warn({ assignmentId: key.assignmentId.slice(0, 200) }, 'assignment with an impossible id ignored');
      return;
    }
    if (this.#works.has(keyText(key))) {
      // Repeated because our acceptance was lost.
      this.send({ case: 'assignmentAnswer', value: { assignment: key, answer: { case: 'accepted', value: {} } } });
      return;
    }
    const known = journal.get(key);
    if (known?.state === 'finished') {
      const { outcome } = known;
      // A cancelled one that is asked for again: the coordinator does not know that it was cancelled.
      const answer =
        outcome.kind === 'cancelled' ? failureOf(key, OctomilError.fromBody(outcome.problem)) : answerOf(key, outcome);
      logger.debug({ ...key, outcome: outcome.kind }, 'assignment is done already; its outcome is repeated');
      if (answer !== undefined) this.#answers.give(key, answer);
      return;
    }
    for (const work of this.#works.values()) {
      if (work.key.assignmentId === key.assignmentId && work.key.attempt < key.attempt) {
        work.cancel(new OctomilError('superseded', `attempt ${key.attempt} of this assignment took its place`));
      }
    }
    const work = new Work(key);
    this.#begin(work, () => runner.run(assignment, work, this));
  }

  #begin(work: Work, run: () => Promise<Outcome | undefined>): void {
    this.#works.set(keyText(work.key), work);
    const done = this.#carryOut(work, run).finally(() => this.#unfinished.delete(done));
    this.#unfinished.add(done);
  }

  async #carryOut(work: Work, run: () => Promise<Outcome | undefined>): Promise<void> {
    const { logger, onOutcome } = this.#options;
    const { key } = work;
    let outcome: Outcome | undefined;
    try {
      outcome = await run();
      if (outcome === undefined) return;
    } catch (thrown) {
      if (work.signal.reason === STOPPING) {
        // An update that is made waits for the next start; anything else is somebody else's from now on.
        if (this.#options.journal.get(key)?.state !== 'upload') this.send(failureOf(key, STOPPING));
        return;
      }
      const cancelled = work.signal.aborted && work.signal.reason instanceof OctomilError;
      // What fails outside the runner's own handling leaves in the same form.
      const problem = outgoingProblem(toOctomilError(cancelled ? work.signal.reason : thrown, 'training_failed'), []);
      outcome = {
        kind: cancelled && problem.code !== 'request_timeout' ? 'cancelled' : 'failed',
        problem: problem.toBody(),
      };
      const level = outcome.kind === 'cancelled' ? 'info' : 'warn';
      logger[level]({ ...key, error: thrown }, `assignment ${outcome.kind}: ${problem.reason}`);
    } finally {
      this.#works.delete(keyText(key));
      // Once the outcome is on its way: the answer must not be given twice by a repetition in between.
      if (outcome !== undefined) await this.#finish(key, outcome);
    }
    onOutcome?.(outcome.kind);
  }

  async #finish(key: AssignmentKey, outcome: Outcome): Promise<void> {
    const { journal, runner, clock, logger } = this.#options;
    const stored = journal.put({ state: 'finished', key, outcome, finishedAtMs: clock.now() });
    const answer = answerOf(key, outcome);
    if (answer !== undefined) this.#answers.give(key, answer);
    try {
      await stored;
      await runner.clean(key);
    } catch (error) {
      logger.warn({ ...key, error }, 'the outcome of an assignment could not be written down');
    }
  }

  #noticed({ assignment, problem }: ProblemNotice): void {
    const { clock, logger } = this.#options;
    const error = fromProblem(problem);
    const work = this.#workOf(assignment);
    logger.warn({ error, assignmentId: assignment?.assignmentId }, `the coordinator objects: ${error.reason}`);
    if (work === undefined) return;
    if (ENDING.has(error.code)) {
      work.cancel(error);
      return;
    }
    const { question } = work;
    if (question === undefined) return;
    if (error.entry.retry === 'never') {
      work.judged({ accepted: false, problem: error });
      return;
    }
    // It could not answer now; without this the question would wait for the next session.
    clock.after(ASK_AGAIN_MS, () => {
      if (work.question === question) this.send(question);
    });
  }
}
