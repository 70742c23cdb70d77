import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { AssignmentKey, UpdateHeaderFields } from './assignment-port.js';
import type { AnswerToStore, AssignmentRow } from './assignment-store.js';
import { requireUsable } from './feature-agreement.js';
import { readFigures, readStatistics } from './reports.js';
import type { RoundFacts } from './round-facts.js';

const MAX_REPORT_CHARACTERS = 4 * 1024 * 1024;

/** An update as it is kept, without what its checks have found out. */
export function storedAnswer(
  deviceId: string,
  header: UpdateHeaderFields,
): Omit<AnswerToStore, 'objectKey' | 'weight'> {
  return {
    updateId: randomUUID(),
    key: header.key,
    deviceId,
    format: header.format,
    sha256: header.sha256.slice(0, 128),
    sizeBytes: wholeNumber(header.sizeBytes),
    sampleCount: wholeNumber(header.sampleCount),
    metrics: header.metrics,
  };
}

/** Why nothing counts for the assignment (any more); `undefined` while something does. */
export function whyNot(row: AssignmentRow | undefined, deviceId: string, key: AssignmentKey): OctomilError | undefined {
  if (row === undefined || row.deviceId !== deviceId) return unknownAssignment(key);
  if (row.attempt !== key.attempt) {
    return new OctomilError(
      'superseded',
      `attempt ${key.attempt} of assignment ${key.assignmentId} was replaced by attempt ${row.attempt}`,
    );
  }
  if (row.roundState !== 'collecting') {
    return new OctomilError('round_closed', `the round is ${row.roundState}; what arrives now counts for nothing`);
  }
  if (row.state === 'open' || row.state === 'accepted') return undefined;
  const reason = row.reason === null ? '' : `: ${row.reason}`;
  return new OctomilError('superseded', `assignment ${key.assignmentId} is ${row.state}${reason}`);
}

export function unknownAssignment(key: AssignmentKey): OctomilError {
  return new OctomilError('assignment_not_found', `this device has no assignment ${key.assignmentId.slice(0, 64)}`);
}

/** @throws `invalid_input`, `too_large`; `data_mismatch` for a site that has no target or no column to learn from */
export function checkReport(facts: RoundFacts, report: unknown, text: string): void {
  if (text.length > MAX_REPORT_CHARACTERS) {
    throw new OctomilError(
      'too_large',
      `the report has ${text.length} characters; at most ${MAX_REPORT_CHARACTERS} are allowed`,
    );
  }
  switch (facts.kind) {
    case 'describe':
      requireUsable(readStatistics(report), facts.config.target);
      return;
    case 'evaluate':
      readFigures(report ?? null);
      return;
    case 'train':
      throw new OctomilError('invalid_input', `round ${facts.number} asks for an update, not for a report`);
  }
}

export function wholeNumber(value: number): number {
  return Number.isFinite(value) ? Math.min(Number.MAX_SAFE_INTEGER, Math.max(0, Math.round(value))) : 0;
}
