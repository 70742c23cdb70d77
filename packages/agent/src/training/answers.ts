import type { OctomilError } from '@octomil/shared/errors';
import { toProblem } from '../connection/problem.js';
import type { OutgoingEvent, SessionLink } from '../session/session-link.js';
import { type AssignmentKey, keyText, type Outcome } from '../state/journal.js';

/** What an outcome says to the coordinator; nothing where the coordinator decided it itself. */
export function answerOf(key: AssignmentKey, outcome: Outcome): OutgoingEvent | undefined {
  const assignment = { ...key };
  switch (outcome.kind) {
    case 'refused':
      return {
        case: 'assignmentAnswer',
        value: { assignment, answer: { case: 'refused', value: bodyProblem(outcome.problem) } },
      };
    case 'failed':
      return { case: 'assignmentFailure', value: { assignment, problem: bodyProblem(outcome.problem) } };
    case 'reported':
      return { case: 'report', value: { assignment, json: outcome.json } };
    case 'accepted':
    case 'rejected':
    case 'cancelled':
      return undefined;
  }
}

export function failureOf(key: AssignmentKey, error: OctomilError): OutgoingEvent {
  return { case: 'assignmentFailure', value: { assignment: { ...key }, problem: toProblem(error) } };
}

function bodyProblem({ code, message, details }: { code: string; message: string; details?: unknown }) {
  return { code, message, detailsJson: details === undefined ? '' : JSON.stringify(details) };
}

/**
 * Answers that the coordinator may not have got: reports, failures and refusals have no receipt of their own. One is
 * repeated with the next session until a lease renewal that was sent after it has been answered.
 */
export class Answers {
  readonly #unsettled = new Map<string, { event: OutgoingEvent; renewal: number }>();
  #link: SessionLink | undefined;
  #renewalsSent = 0;

  give(key: AssignmentKey, event: OutgoingEvent): void {
    // The answer to the renewal after next-to-come proves it: renewals sent so far say nothing.
    this.#unsettled.set(keyText(key), { event, renewal: this.#renewalsSent + 1 });
    this.#link?.send(event);
  }

  connected(link: SessionLink): void {
    this.#link = link;
    this.#renewalsSent = 0;
    for (const entry of this.#unsettled.values()) {
      entry.renewal = 1;
      link.send(entry.event);
    }
  }

  disconnected(): void {
    this.#link = undefined;
  }

  renewalSent(): void {
    this.#renewalsSent += 1;
  }

  renewalAnswered(): void {
    // Without a link an answer was not sent at all.
    if (this.#link === undefined) return;
    for (const [name, { renewal }] of this.#unsettled) {
      if (renewal <= this.#renewalsSent) this.#unsettled.delete(name);
    }
  }
}
