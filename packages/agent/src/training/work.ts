import type { UploadTicket } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import type { UploadVerdict } from '../connection/http-transfers.js';
import type { OutgoingEvent } from '../session/session-link.js';
import type { AssignmentKey } from '../state/journal.js';

/** One assignment in the works: what ends it and what it waits for. */
export class Work {
  readonly key: AssignmentKey;
  readonly controller = new AbortController();
  /** A question to the coordinator that is asked again with every new session until it is answered. */
  question: OutgoingEvent | undefined;
  readonly #verdict = Promise.withResolvers<UploadVerdict>();
  #ticket = Promise.withResolvers<UploadTicket>();

  constructor(key: AssignmentKey) {
    this.key = key;
    this.#verdict.promise.catch(() => undefined);
    this.#ticket.promise.catch(() => undefined);
    this.signal.addEventListener('abort', () => {
      this.#verdict.reject(this.signal.reason);
      this.#ticket.reject(this.signal.reason);
    });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  cancel(reason: OctomilError): void {
    this.controller.abort(reason);
  }

  /** The coordinator's verdict over the session; rejects when the work is cancelled. */
  get verdict(): Promise<UploadVerdict> {
    return this.#verdict.promise;
  }

  judged(verdict: UploadVerdict): void {
    this.question = undefined;
    this.#verdict.resolve(verdict);
  }

  /** The next ticket to arrive; rejects when the work is cancelled. */
  nextTicket(): Promise<UploadTicket> {
    return this.#ticket.promise;
  }

  ticketed(ticket: UploadTicket): void {
    this.question = undefined;
    this.#ticket.resolve(ticket);
    this.#ticket = Promise.withResolvers<UploadTicket>();
    this.#ticket.promise.catch(() => undefined);
    if (this.signal.aborted) this.#ticket.reject(this.signal.reason);
  }
}

/** Why work ends that the coordinator did not end; it is not remembered, so that a restarted agent takes it up again. */
export const STOPPING = new OctomilError('cancelled', 'the agent is stopping');
