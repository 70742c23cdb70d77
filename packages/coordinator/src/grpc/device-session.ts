import type { ServerDuplexStream } from '@grpc/grpc-js';
import type { AssignmentRef, SessionRequest, SessionResponse } from '@octomil/proto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { DeviceIdentity, DeviceService, HeldSession } from '../devices/index.js';
import type { DesiredListener, DesiredModels, DesiredPort } from '../rollouts/index.js';
import type { AssignmentKey, AssignmentPort, Verdict } from '../training/assignment-port.js';
import type { TransferService } from '../transfers/index.js';
import { AssignmentTracker } from './assignment-tracker.js';
import { DesiredSaid } from './desired-said.js';
import type { Semaphore } from './semaphore.js';
import { isCallersFault, toStatusError } from './status.js';
import {
  readAnyJson,
  readCount,
  readHeader,
  readKey,
  readObserved,
  readProblem,
  say,
  writeKey,
} from './wire-fields.js';

export interface SessionContext {
  readonly devices: DeviceService;
  readonly assignments: AssignmentPort;
  readonly transfers: TransferService;
  readonly desired: DesiredPort;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Bounds how many updates of the stream are in memory at once, over all sessions. */
  readonly inlineUpdates: Semaphore;
  readonly inlineUpdateMaxBytes: number;
}

export type SessionStream = ServerDuplexStream<SessionRequest, SessionResponse>;

/** Messages of one device that wait their turn; beyond this, its stream is not read. */
const MAX_QUEUED = 8;
/** Renewals of one device that are not answered; beyond this, its stream is not read. Minutes of an agent that is well. */
const MAX_RENEWING = 32;
const PROGRESS_EVERY_MS = 1000;
const SAID_AGAIN: ReadonlySet<string | undefined> = new Set([
  'report',
  'assignmentFailure',
  'siteSummary',
  'observedState',
]);
const UPDATE_FAULTS: ReadonlySet<string> = new Set(['update_rejected', 'too_large', 'invalid_input']);

/**
 * One device's open stream. Its messages are handled in order, in two lanes: updates, which may take long, and
 * everything else. An update waits for what was said before it, but nothing waits for an update. A lease is renewed at
 * once and the renewal answered in turn: agents take that answer as the receipt for what they said before it.
 */
export class DeviceSession implements HeldSession, DesiredListener {
  readonly deviceId: string;
  readonly organizationId: string;
  readonly epoch: number;
  readonly #context: SessionContext;
  readonly #stream: SessionStream;
  readonly #logger: Logger;
  readonly #tracker = new AssignmentTracker();
  #inOrder: Promise<void> = Promise.resolve();
  #updates: Promise<void> = Promise.resolve();
  #queued = 0;
  #renewing = 0;
  readonly #lastProgress = new Map<string, { atMs: number; phase: string }>();
  readonly #desired = new DesiredSaid((message) => this.#say(message));
  #looking = false;
  #lookAgain = false;
  #over = false;

  constructor(context: SessionContext, stream: SessionStream, device: DeviceIdentity, epoch: number) {
    this.#context = context;
    this.#stream = stream;
    this.deviceId = device.deviceId;
    this.organizationId = device.organizationId;
    this.epoch = epoch;
    this.#logger = context.logger.child({ deviceId: device.deviceId, epoch });
  }

  get busy(): boolean {
    return this.#tracker.busy;
  }

  /** What the agent says it still works on, from its hello or a renewal. */
  claim(inProgress: readonly AssignmentRef[]): void {
    for (const ref of inProgress) this.#tracker.acknowledge({ assignmentId: ref.assignmentId, attempt: ref.attempt });
  }

  wake(): void {
    if (this.#over) return;
    this.#lookAgain = true;
    if (!this.#looking) void this.#look();
  }

  desire(desired: DesiredModels): void {
    if (!this.#over) this.#desired.tell(desired);
  }

  end(reason: OctomilError): void {
    if (this.#over) return;
    this.#over = true;
    this.#logger.info({ code: reason.code }, 'a session was ended');
    if (reason.code === 'superseded') {
      this.#stream.write(say.superseded(reason.toBody()));
      this.#stream.end();
    } else {
      this.#stream.emit('error', toStatusError(reason));
    }
  }

  submitting(key: AssignmentKey, active: boolean): void {
    this.#tracker.submitting(key, active);
  }

  settled(key: AssignmentKey): void {
    this.#tracker.finish(key);
  }

  judge(key: AssignmentKey, verdict: Verdict): void {
    this.settled(key);
    void this.#say(say.verdict(key, verdict));
  }

  /** The stream is gone; nothing can be said any more. What has been received is still handled. */
  closed(): void {
    this.#over = true;
  }

  /** Waits while the agent does not read: that is the back pressure of everything said in answer. */
  #say(message: SessionResponse): Promise<void> | undefined {
    if (this.#over || this.#stream.write(message)) return undefined;
    return new Promise((resolve) => {
      const done = (): void => {
        this.#stream.off('drain', done);
        this.#stream.off('close', done);
        resolve();
      };
      this.#stream.once('drain', done);
      this.#stream.once('close', done);
    });
  }

  async #look(): Promise<void> {
    this.#looking = true;
    try {
      while (this.#lookAgain && !this.#over) {
        this.#lookAgain = false;
        await this.#compare();
      }
    } catch (error) {
      this.#logger.warn({ error }, 'could not read the assignments of a device; looking again in 5 s');
    } finally {
      this.#looking = false;
    }
  }

  async #compare(): Promise<void> {
    const open = await this.#context.assignments.openAssignments(this.deviceId);
    const doubtful = this.#tracker.doubtful(open);
    if (doubtful.length > 0) {
      for (const found of await this.#context.assignments.obsolete(this.deviceId, doubtful)) {
        this.#tracker.finish(found.key);
        await this.#say(
          'verdict' in found ? say.verdict(found.key, found.verdict) : say.cancelled(found.key, found.reason),
        );
      }
    }
    for (const assignment of this.#tracker.toPush(open, this.#context.clock.now())) {
      await this.#say(say.assignment(assignment));
    }
  }

  /** Takes the next message of the stream. Never throws. */
  receive(request: SessionRequest): void {
    if (this.#over) return;
    if (Number(request.epoch) !== this.epoch) {
      this.end(
        new OctomilError(
          'superseded',
          `the message carries epoch ${request.epoch} and this session has epoch ${this.epoch}; say hello again`,
          { details: { epoch: Number(request.epoch), current: this.epoch } },
        ),
      );
      return;
    }
    const { event } = request;
    if (event.case === 'leaseRenewal') {
      this.#renewing++;
      if (this.#renewing >= MAX_RENEWING) this.#stream.pause();
      void this.#renew(event.value.inProgress, this.#inOrder);
      return;
    }
    this.#queued++;
    if (this.#queued >= MAX_QUEUED) this.#stream.pause();
    if (event.case === 'inlineUpdate' || event.case === 'ticketRequest') {
      const before = Promise.all([this.#updates, this.#inOrder]);
      this.#updates = before.then(() => this.#handle(request));
    } else {
      this.#inOrder = this.#inOrder.then(() => this.#handle(request));
    }
  }

  async #renew(inProgress: readonly AssignmentRef[], saidBefore: Promise<void>): Promise<void> {
    try {
      this.claim(inProgress);
      await this.#context.devices.renewSession(this);
      await saidBefore;
      await this.#say(say.leaseRenewed(this.#context.devices.leaseMs));
    } catch (thrown) {
      const error = toOctomilError(thrown);
      if (error.code === 'superseded' || error.code === 'device_revoked') this.end(error);
      else this.#logger.warn({ error }, 'could not renew a lease');
    } finally {
      this.#renewing--;
      this.#readOn();
    }
  }

  #readOn(): void {
    const isDue = this.#queued < MAX_QUEUED / 2 && this.#renewing < MAX_RENEWING / 2;
    if (isDue && this.#stream.isPaused()) this.#stream.resume();
  }

  /** Says what went wrong instead of throwing: a faulty message is no reason to end the session. */
  async #handle(request: SessionRequest): Promise<void> {
    let key: AssignmentKey | undefined;
    try {
      key = keyOf(request);
      await this.#dispatch(request, key);
    } catch (thrown) {
      const error = toOctomilError(thrown);
      if (!isCallersFault(error)) this.#logger.error({ error: thrown, event: request.event.case }, 'a message failed');
      // What failed for a passing reason is said again in the next session.
      if (isSaidAgain(request) && error.entry.retry !== 'never') this.end(error);
      else {
        await this.#failOnFault(request, key, error);
        await this.#say(this.#answerTo(request, key, error));
      }
    } finally {
      this.#queued--;
      this.#readOn();
    }
  }

  /** An agent whose update was refused for its own fault is done with it, so its round must not wait for more. */
  async #failOnFault({ event }: SessionRequest, key: AssignmentKey | undefined, error: OctomilError): Promise<void> {
    const isUpdate = event.case === 'inlineUpdate' || event.case === 'ticketRequest';
    if (key === undefined || !isUpdate || !UPDATE_FAULTS.has(error.code)) return;
    await this.#context.assignments.fail(this.deviceId, key, error.toBody()).catch((thrown: unknown) => {
      this.#logger.debug({ error: thrown }, 'the assignment of a faulty update does not count any more');
    });
  }

  /** How a failure is told: an agent that waits for a verdict gets one, unless trying again makes sense. */
  #answerTo(request: SessionRequest, key: AssignmentKey | undefined, error: OctomilError): SessionResponse {
    if (key === undefined || error.entry.retry !== 'never') return say.problem(key, error.toBody());
    switch (request.event.case) {
      case 'inlineUpdate':
      case 'ticketRequest':
      case 'report':
        this.#tracker.finish(key);
        return say.verdict(key, { accepted: false, reason: error.toBody() });
      case 'progress':
      case 'assignmentAnswer':
        if (error.code === 'invalid_input') return say.problem(key, error.toBody());
        this.#tracker.finish(key);
        return say.cancelled(key, error.toBody());
      case 'assignmentFailure':
      case 'siteSummary':
      case 'observedState':
      case 'hello':
      case 'leaseRenewal':
      case undefined:
        return say.problem(key, error.toBody());
    }
  }

  async #dispatch(request: SessionRequest, key: AssignmentKey | undefined): Promise<void> {
    const { assignments, devices } = this.#context;
    const { event } = request;
    switch (event.case) {
      case 'assignmentAnswer': {
        const asked = requireKey(key);
        const { answer } = event.value;
        if (answer.case === 'refused') {
          await assignments.refuse(this.deviceId, asked, readProblem(answer.value));
          this.#tracker.finish(asked);
        } else {
          await assignments.accept(this.deviceId, asked);
          this.#tracker.acknowledge(asked);
        }
        return;
      }
      case 'progress': {
        const asked = requireKey(key);
        const { phase, completed, total, loss } = event.value;
        const step = {
          phase: phase.slice(0, 40),
          completed: readCount(completed, 'completed'),
          total: readCount(total, 'total'),
          ...(loss === undefined ? {} : { loss }),
        };
        if (!this.#progressIsDue(asked, step)) return;
        await assignments.progress(this.deviceId, asked, step);
        return;
      }
      case 'inlineUpdate':
        return this.#takeUpdate(event.value.header, event.value.data);
      case 'ticketRequest': {
        const header = readHeader(event.value.header);
        const issued = await this.#context.transfers.issueTicket(this.deviceId, header);
        if ('verdict' in issued) {
          this.judge(header.key, issued.verdict);
          return;
        }
        const { ticket, receivedParts, directParts } = issued;
        await this.#say(
          say.ticket({
            assignment: writeKey(header.key),
            ticketId: ticket.id,
            token: ticket.token,
            partSizeBytes: BigInt(ticket.layout.partSizeBytes),
            partCount: ticket.layout.partCount,
            receivedParts,
            expiresInMs: BigInt(ticket.expiresInMs),
            partRequests: directParts.map((part) => ({ ...part, headers: { ...part.headers } })),
          }),
        );
        return;
      }
      case 'report': {
        const asked = requireKey(key);
        await this.#submitting(asked, () =>
          assignments.report(this.deviceId, asked, readAnyJson(event.value.json, 'json')),
        );
        this.#tracker.finish(asked);
        await this.#say(say.verdict(asked, { accepted: true }));
        return;
      }
      case 'assignmentFailure': {
        const asked = requireKey(key);
        await assignments.fail(this.deviceId, asked, readProblem(event.value.problem));
        this.#tracker.finish(asked);
        return;
      }
      case 'siteSummary':
        await devices.describeSite(this.deviceId, event.value);
        this.#context.desired.devicesChanged([this.deviceId]);
        return;
      case 'observedState':
        await this.#context.desired.observeRaw(this.deviceId, event.value.models.map(readObserved));
        await this.#say(say.observedReceipt());
        return;
      case 'hello':
        throw new OctomilError('invalid_input', 'Hello is said once, at the start of a session');
      case 'leaseRenewal':
      case undefined:
        // A newer agent may say what this coordinator does not know.
        return;
    }
  }

  /** At most one a second and assignment goes to the rows, but every new phase and every end of one does. */
  #progressIsDue(
    { assignmentId }: AssignmentKey,
    { phase, completed, total }: { phase: string; completed: number; total: number },
  ): boolean {
    const nowMs = this.#context.clock.now();
    const last = this.#lastProgress.get(assignmentId);
    const ended = total > 0 && completed >= total;
    if (last !== undefined && last.phase === phase && !ended && nowMs - last.atMs < PROGRESS_EVERY_MS) return false;
    if (this.#lastProgress.size > 64) this.#lastProgress.clear();
    this.#lastProgress.set(assignmentId, { atMs: nowMs, phase });
    return true;
  }

  async #takeUpdate(wireHeader: Parameters<typeof readHeader>[0], data: Uint8Array): Promise<void> {
    const { assignments, inlineUpdates, inlineUpdateMaxBytes } = this.#context;
    const header = readHeader(wireHeader);
    if (data.length > inlineUpdateMaxBytes) {
      throw new OctomilError(
        'too_large',
        `an update of ${data.length} bytes is larger than the ${inlineUpdateMaxBytes} the stream takes; ask for a ticket`,
        { details: { sizeBytes: data.length, limitBytes: inlineUpdateMaxBytes } },
      );
    }
    if (data.length !== header.sizeBytes) {
      throw new OctomilError(
        'update_rejected',
        `the update has ${data.length} bytes and its header says ${header.sizeBytes}`,
        { details: { sizeBytes: data.length, announcedBytes: header.sizeBytes } },
      );
    }
    // `data` is a view of the received message, which holds hardly anything else: a copy would only cost.
    const verdict = await this.#submitting(header.key, () =>
      inlineUpdates.run(() => assignments.submitUpdate(this.deviceId, header, { bytes: data })),
    );
    this.#tracker.finish(header.key);
    await this.#say(say.verdict(header.key, verdict));
  }

  async #submitting<T>(key: AssignmentKey, submit: () => Promise<T>): Promise<T> {
    this.submitting(key, true);
    try {
      return await submit();
    } finally {
      this.submitting(key, false);
    }
  }
}

/** What an agent knows to have arrived by a receipt: its own, or the answer to a later renewal. */
function isSaidAgain({ event }: SessionRequest): boolean {
  if (event.case === 'assignmentAnswer') return event.value.answer.case === 'refused';
  return SAID_AGAIN.has(event.case);
}

function requireKey(key: AssignmentKey | undefined): AssignmentKey {
  return key ?? readKey(undefined);
}

/** @throws `invalid_input` when a message about an assignment names none */
function keyOf({ event }: SessionRequest): AssignmentKey | undefined {
  switch (event.case) {
    case 'assignmentAnswer':
    case 'progress':
    case 'report':
    case 'assignmentFailure':
      return readKey(event.value.assignment);
    case 'inlineUpdate':
    case 'ticketRequest':
      return readKey(event.value.header?.assignment);
    case 'hello':
    case 'leaseRenewal':
    case 'siteSummary':
    case 'observedState':
    case undefined:
      return undefined;
  }
}
