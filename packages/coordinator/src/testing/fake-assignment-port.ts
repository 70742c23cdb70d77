import { createHash } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { type Assignment, AssignmentSchema } from '@octomil/proto';
import { type ErrorBody, OctomilError } from '@octomil/shared/errors';
import type {
  AssignmentKey,
  AssignmentPort,
  Obsolete,
  UpdateBytes,
  UpdateHeaderFields,
  Verdict,
} from '../training/assignment-port.js';

export interface TakenUpdate {
  readonly deviceId: string;
  readonly header: UpdateHeaderFields;
  /** Digest of the bytes that were handed over. */
  readonly sha256: string;
}

/** A training engine that remembers what device sessions told it, and says what a test told it to say. */
export class FakeAssignmentPort implements AssignmentPort {
  /** By device. */
  readonly open = new Map<string, Assignment[]>();
  readonly calls: { name: string; deviceId: string; key: AssignmentKey; value?: unknown }[] = [];
  readonly updates: TakenUpdate[] = [];
  /** By digest. */
  readonly objects = new Map<string, { objectKey: string; sizeBytes: number; deviceId: string }>();
  calledOff: Obsolete[] = [];
  verdict: Verdict = { accepted: true };
  /** Thrown by the next calls of the named method. */
  readonly failures = new Map<keyof AssignmentPort, OctomilError>();
  /** Of a coordinator before this one, by digest. */
  readonly earlierVerdicts = new Map<string, Verdict>();
  /** Awaited before an update is taken. */
  gate: Promise<void> = Promise.resolve();
  /** Awaited before a report is taken. */
  reportGate: Promise<void> = Promise.resolve();

  offer(deviceId: string, assignmentId: string, attempt = 1): void {
    const assignment = create(AssignmentSchema, { ref: { assignmentId, attempt }, kind: 'train', taskJson: '{}' });
    this.open.set(deviceId, [...(this.open.get(deviceId) ?? []), assignment]);
  }

  #note(name: keyof AssignmentPort, deviceId: string, key: AssignmentKey, value?: unknown): void {
    this.calls.push({ name, deviceId, key, value });
    const failure = this.failures.get(name);
    if (failure !== undefined) throw failure;
  }

  named(name: keyof AssignmentPort): { deviceId: string; key: AssignmentKey; value?: unknown }[] {
    return this.calls.filter((call) => call.name === name);
  }

  async openAssignments(deviceId: string): Promise<Assignment[]> {
    return this.open.get(deviceId) ?? [];
  }

  async obsolete(_deviceId: string, keys: readonly AssignmentKey[]): Promise<Obsolete[]> {
    return this.calledOff.filter(({ key }) => keys.some(({ assignmentId }) => assignmentId === key.assignmentId));
  }

  async accept(deviceId: string, key: AssignmentKey): Promise<void> {
    this.#note('accept', deviceId, key);
  }

  async refuse(deviceId: string, key: AssignmentKey, problem: ErrorBody): Promise<void> {
    this.#note('refuse', deviceId, key, problem);
  }

  async fail(deviceId: string, key: AssignmentKey, problem: ErrorBody): Promise<void> {
    this.#note('fail', deviceId, key, problem);
  }

  async progress(deviceId: string, key: AssignmentKey, step: { phase: string }): Promise<void> {
    this.#note('progress', deviceId, key, step);
  }

  async report(deviceId: string, key: AssignmentKey, report: unknown): Promise<void> {
    await this.reportGate;
    this.#note('report', deviceId, key, report);
  }

  async verdictOn(_deviceId: string, { sha256 }: Pick<UpdateHeaderFields, 'sha256'>): Promise<Verdict | undefined> {
    return this.earlierVerdicts.get(sha256);
  }

  async checkHeader(deviceId: string, header: UpdateHeaderFields): Promise<void> {
    this.#note('checkHeader', deviceId, header.key);
  }

  async submitUpdate(deviceId: string, header: UpdateHeaderFields, bytes: UpdateBytes): Promise<Verdict> {
    await this.gate;
    this.#note('submitUpdate', deviceId, header.key, bytes);
    const sha256 = 'path' in bytes ? bytes.sha256 : createHash('sha256').update(bytes.bytes).digest('hex');
    this.updates.push({ deviceId, header, sha256 });
    return this.verdict;
  }

  async baseObject(deviceId: string, sha256: string): Promise<{ objectKey: string; sizeBytes: number }> {
    const object = this.objects.get(sha256);
    if (object?.deviceId !== deviceId) {
      throw new OctomilError('not_found', `no assignment of this device names an object with SHA-256 ${sha256}`);
    }
    return object;
  }
}
