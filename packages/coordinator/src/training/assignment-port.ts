import type { Assignment } from '@octomil/proto';
import type { ErrorBody } from '@octomil/shared/errors';

export interface AssignmentKey {
  readonly assignmentId: string;
  readonly attempt: number;
}

export interface UpdateHeaderFields {
  readonly key: AssignmentKey;
  readonly format: 'delta' | 'weights';
  readonly sizeBytes: number;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
  readonly sampleCount: number;
  /** Parsed `metrics_json`. */
  readonly metrics: Record<string, unknown>;
}

/** Where the bytes of an update are: in memory (from the stream), or a finished local file (from parts) that is taken over. */
export type UpdateBytes = { readonly bytes: Uint8Array } | { readonly path: string; readonly sha256: string };

export type Verdict = { readonly accepted: true } | { readonly accepted: false; readonly reason: ErrorBody };

/** Why an assignment is no longer worked on: it was called off, or its answer was taken and the device does not know. */
export type Obsolete =
  | { readonly key: AssignmentKey; readonly reason: ErrorBody }
  | { readonly key: AssignmentKey; readonly verdict: Verdict };

/**
 * What the device sessions need of the training engine. Every call checks that the assignment is the device's,
 * that the attempt is current and that the round still collects.
 *
 * @throws `assignment_not_found`, `superseded` (older attempt), `round_closed`
 */
export interface AssignmentPort {
  /** Everything the device should be doing now, ready to send. Level-triggered: asked on connect, on notification, every 5 s. */
  openAssignments(deviceId: string): Promise<Assignment[]>;
  /** Of those the agent says it works on, the ones that no longer count, and those that count already. */
  obsolete(deviceId: string, keys: readonly AssignmentKey[]): Promise<Obsolete[]>;
  accept(deviceId: string, key: AssignmentKey): Promise<void>;
  refuse(deviceId: string, key: AssignmentKey, problem: ErrorBody): Promise<void>;
  fail(deviceId: string, key: AssignmentKey, problem: ErrorBody): Promise<void>;
  /** Renews the assignment's lease; called for bytes moved as well. */
  progress(
    deviceId: string,
    key: AssignmentKey,
    step: { phase: string; completed: number; total: number; loss?: number },
  ): Promise<void>;
  report(deviceId: string, key: AssignmentKey, report: unknown): Promise<void>;
  /**
   * The verdict on these very bytes, if there was one: whoever asks may not have heard it, since the coordinator that
   * gave it was killed. Also when the round is over. Never throws for what the assignment has become.
   */
  verdictOn(deviceId: string, header: Pick<UpdateHeaderFields, 'key' | 'sha256'>): Promise<Verdict | undefined>;
  /** Throws unless an update of this header could still be accepted. Checked before bytes are taken. */
  checkHeader(deviceId: string, header: UpdateHeaderFields): Promise<void>;
  /**
   * Validates and stores an update. `accepted` means durable: it counts, also after any process is killed.
   * Repeating the same header (device, assignment, digest) answers the first verdict.
   */
  submitUpdate(deviceId: string, header: UpdateHeaderFields, bytes: UpdateBytes): Promise<Verdict>;
  /** The checkpoint or version file with this digest, if this device has an assignment that names it. @throws `not_found` */
  baseObject(deviceId: string, sha256: string): Promise<{ objectKey: string; sizeBytes: number }>;
}

/** NOTIFY channel; the payload is a device id whose open assignments changed. */
export const ASSIGNMENTS_CHANNEL = 'octomil_assignments';
/** NOTIFY channel; the payload is a training session id that has new events, and after a space who says so. */
export const EVENTS_CHANNEL = 'octomil_session_events';
/** NOTIFY channel; the payload is a device id whose session was opened, closed or revoked. */
export const PRESENCE_CHANNEL = 'octomil_presence';
