import type { OctomilError } from '@octomil/shared/errors';
import type { AssignmentKey, Verdict } from '../training/assignment-port.js';

/** A device's open stream in this process. */
export interface HeldSession {
  readonly deviceId: string;
  readonly epoch: number;
  /** Whether the agent was given something that it has not finished. */
  readonly busy: boolean;
  /** The device's assignments may have changed: look again. Cheap, and safe to repeat. */
  wake(): void;
  /** Tells the agent why and ends the stream. */
  end(reason: OctomilError): void;
  /** While a result is being taken, the session does not ask whether its assignment was called off. */
  submitting(key: AssignmentKey, active: boolean): void;
  /** Nothing more is expected of the agent for this assignment. */
  settled(key: AssignmentKey): void;
  /** Tells the agent what became of its update. */
  judge(key: AssignmentKey, verdict: Verdict): void;
}

/** What the training engine calls after a commit that changed devices' assignments. */
export interface DevicePush {
  /** Devices held here are woken at once, the others through the database. Never throws; a lost call costs 5 s. */
  notifyDevices(deviceIds: readonly string[]): void;
}

/** Which devices this process holds: one session each, the newest. */
export class SessionHub {
  readonly #sessions = new Map<string, HeldSession>();

  get size(): number {
    return this.#sessions.size;
  }

  get(deviceId: string): HeldSession | undefined {
    return this.#sessions.get(deviceId);
  }

  all(): HeldSession[] {
    return [...this.#sessions.values()];
  }

  /** Answers the session that was there before, for the caller to end. */
  add(session: HeldSession): HeldSession | undefined {
    const before = this.#sessions.get(session.deviceId);
    if (before !== undefined && before.epoch > session.epoch) return session;
    this.#sessions.set(session.deviceId, session);
    return before;
  }

  /** Only if it is still the one held. */
  remove(session: HeldSession): void {
    if (this.#sessions.get(session.deviceId) === session) this.#sessions.delete(session.deviceId);
  }
}
