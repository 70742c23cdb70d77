import type { Assignment } from '@octomil/proto';
import type { AssignmentKey } from '../training/assignment-port.js';

interface Tracked {
  readonly attempt: number;
  /** The agent works on it; before that it is sent again and again. */
  acknowledged: boolean;
  pushedAtMs: number;
  /** Its result is being taken: whether it still counts is for that call to say. */
  submitting: boolean;
}

/** How long to wait for an acknowledgement before an assignment is sent again. */
const PUSH_AGAIN_MS = 5000;
/** What an agent may claim to work on; beyond it, claims are not believed: each costs memory and a look at the rows. */
const MAX_TRACKED = 1024;
/** Finished assignments to remember, so that a look at the rows from just before does not bring them back. */
const MAX_FINISHED = 256;

/** What one session's agent was given and how far that went. Holds no truth: rows do, and every look compares. */
export class AssignmentTracker {
  readonly #tracked = new Map<string, Tracked>();
  readonly #finished = new Map<string, number>();

  get busy(): boolean {
    return this.#tracked.size > 0;
  }

  /** Of what the device should be doing, what to send now; counts as sent. */
  toPush(open: readonly Assignment[], nowMs: number): Assignment[] {
    const due: Assignment[] = [];
    for (const assignment of open) {
      const { assignmentId = '', attempt = 0 } = assignment.ref ?? {};
      if (this.#finished.get(assignmentId) === attempt) continue;
      const known = this.#tracked.get(assignmentId);
      if (known?.attempt === attempt && (known.acknowledged || nowMs - known.pushedAtMs < PUSH_AGAIN_MS)) continue;
      this.#tracked.set(assignmentId, { attempt, acknowledged: false, pushedAtMs: nowMs, submitting: false });
      due.push(assignment);
    }
    return due;
  }

  /** What the agent holds that is not among `open`: it may have been called off. */
  doubtful(open: readonly Assignment[]): AssignmentKey[] {
    const current = new Map(open.map(({ ref }) => [ref?.assignmentId ?? '', ref?.attempt]));
    const keys: AssignmentKey[] = [];
    for (const [assignmentId, { attempt, submitting }] of this.#tracked) {
      if (!submitting && current.get(assignmentId) !== attempt) keys.push({ assignmentId, attempt });
    }
    return keys;
  }

  /** The agent says that it works on this. */
  acknowledge({ assignmentId, attempt }: AssignmentKey): void {
    const known = this.#tracked.get(assignmentId);
    if (known?.attempt === attempt) known.acknowledged = true;
    else if (known === undefined ? this.#tracked.size < MAX_TRACKED : known.attempt < attempt) {
      this.#tracked.set(assignmentId, { attempt, acknowledged: true, pushedAtMs: 0, submitting: false });
    }
  }

  submitting({ assignmentId, attempt }: AssignmentKey, submitting: boolean): void {
    const known = this.#tracked.get(assignmentId);
    if (known?.attempt === attempt) known.submitting = submitting;
  }

  /** Nothing more is expected of the agent for this attempt. */
  finish({ assignmentId, attempt }: AssignmentKey): void {
    if (this.#tracked.get(assignmentId)?.attempt === attempt) this.#tracked.delete(assignmentId);
    this.#finished.set(assignmentId, attempt);
    if (this.#finished.size <= MAX_FINISHED) return;
    for (const oldest of this.#finished.keys()) {
      this.#finished.delete(oldest);
      break;
    }
  }
}
