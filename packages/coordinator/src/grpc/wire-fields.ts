import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  type Assignment,
  type AssignmentRef,
  AssignmentRefSchema,
  type ObservedModel,
  type Problem,
  ProblemSchema,
  type SessionResponse,
  SessionResponseSchema,
  type UpdateHeader,
} from '@octomil/proto';
import { type ErrorBody, OctomilError } from '@octomil/shared/errors';
import { checkBodyShape } from '../http/body-shape.js';
import type { DesiredModels, RawObservedModel } from '../rollouts/index.js';
import type { AssignmentKey, UpdateHeaderFields, Verdict } from '../training/assignment-port.js';
import { withoutNul } from './without-nul.js';

const SHA256 = /^[0-9a-f]{64}$/;
const MAX_JSON_BYTES = 1024 * 1024;
const MAX_TEXT_LENGTH = 2000;

/** @throws `invalid_input` when the message names no assignment */
export function readKey(ref: AssignmentRef | undefined): AssignmentKey {
  if (ref === undefined || ref.assignmentId === '' || ref.assignmentId.length > 64) {
    throw new OctomilError('invalid_input', 'the message names no assignment (assignment_id and attempt)');
  }
  return { assignmentId: ref.assignmentId, attempt: ref.attempt };
}

export function writeKey({ assignmentId, attempt }: AssignmentKey): AssignmentRef {
  return create(AssignmentRefSchema, { assignmentId, attempt });
}

/** A count as a number. @throws `invalid_input` beyond 2^53 */
export function readCount(value: bigint, field: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new OctomilError('invalid_input', `${field} is ${value}, more than can be counted exactly (2^53 - 1)`);
  }
  return Number(value);
}

/** @throws `invalid_input` when the text is not a JSON object or longer than 1 MiB */
export function readJson(text: string, field: string): Record<string, unknown> {
  const value = text === '' ? {} : readAnyJson(text, field);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new OctomilError('invalid_input', `${field} must be a JSON object`);
  }
  return value as Record<string, unknown>;
}

/** @throws `invalid_input` when the text is not JSON, longer than 1 MiB, or cannot be kept (`checkBodyShape`) */
export function readAnyJson(text: string, field: string): unknown {
  if (text.length > MAX_JSON_BYTES) {
    throw new OctomilError('invalid_input', `${field} has ${text.length} characters, more than ${MAX_JSON_BYTES}`);
  }
  let value: unknown;
  try {
    // Raw NUL is not JSON: it comes only as an escape.
    value = text.includes('\\u0000') ? withoutNul(JSON.parse(text)) : JSON.parse(text);
  } catch (error) {
    throw new OctomilError('invalid_input', `${field} is not JSON`, { cause: error });
  }
  // One statement keeps the answers of several devices: none of them may be what makes it fail.
  checkBodyShape(value, field);
  return value;
}

/** @throws `invalid_input` naming the field that is missing or wrong */
export function readHeader(header: UpdateHeader | undefined): UpdateHeaderFields {
  if (header === undefined) throw new OctomilError('invalid_input', 'an update needs a header');
  const { format, sha256 } = header;
  if (format !== 'delta' && format !== 'weights') {
    throw new OctomilError(
      'invalid_input',
      `update format ${JSON.stringify(format.slice(0, 40))} is neither delta nor weights`,
    );
  }
  if (!SHA256.test(sha256)) {
    throw new OctomilError('invalid_input', 'sha256 must be 64 lower-case hexadecimal digits');
  }
  return {
    key: readKey(header.assignment),
    format,
    sizeBytes: readCount(header.sizeBytes, 'size_bytes'),
    sha256,
    sampleCount: readCount(header.sampleCount, 'sample_count'),
    metrics: readJson(header.metricsJson, 'metrics_json'),
  };
}

/** What an agent says went wrong. An unknown code becomes `unknown`; texts are cut to a length fit for a row. */
export function readProblem(problem: Problem | undefined): ErrorBody {
  const details = problem?.detailsJson === undefined ? {} : readJson(problem.detailsJson, 'details_json');
  const message = (problem?.message ?? 'no reason was given').slice(0, MAX_TEXT_LENGTH).toWellFormed();
  return OctomilError.fromBody({ code: problem?.code, message, details }).toBody();
}

/** Checked by who takes it; here only JSON becomes values. @throws `invalid_input` when the health is not JSON */
export function readObserved(model: ObservedModel): RawObservedModel {
  return {
    modelId: model.modelId,
    versionId: model.versionId,
    rolloutId: model.rolloutId,
    state: model.state,
    activeVersionId: model.activeVersionId,
    previousVersionId: model.previousVersionId,
    problem: model.problem === undefined ? null : readProblem(model.problem),
    health: model.healthJson === '' ? null : readAnyJson(model.healthJson, 'health_json'),
  };
}

/** One message for every device that should run the same. */
function writeDesired({ digest, models }: DesiredModels): SessionResponse {
  return response({
    case: 'desiredState',
    value: {
      digest,
      models: models.map(({ rolloutId, artifacts, ...model }) => ({
        ...model,
        rolloutId: BigInt(rolloutId),
        artifacts: artifacts.map(({ sizeBytes, ...file }) => ({ ...file, sizeBytes: BigInt(sizeBytes) })),
      })),
    },
  });
}

const desiredMessages = new WeakMap<DesiredModels, SessionResponse>();

export function writeProblem(body: ErrorBody): Problem {
  return create(ProblemSchema, {
    code: body.code,
    message: body.message,
    detailsJson: body.details === undefined ? '' : JSON.stringify(body.details),
  });
}

type Event = NonNullable<MessageInitShape<typeof SessionResponseSchema>['event']>;

function response(event: Event): SessionResponse {
  return create(SessionResponseSchema, { event });
}

/** The messages a session sends. */
export const say = {
  welcome: (value: Extract<Event, { case: 'welcome' }>['value']) => response({ case: 'welcome', value }),
  leaseRenewed: (leaseMs: number) => response({ case: 'leaseRenewed', value: { leaseMs } }),
  assignment: (value: Assignment) => response({ case: 'assignment', value }),
  cancelled: (key: AssignmentKey, reason: ErrorBody) =>
    response({ case: 'assignmentCancelled', value: { assignment: writeKey(key), reason: writeProblem(reason) } }),
  verdict: (key: AssignmentKey, verdict: Verdict) =>
    response({
      case: 'updateVerdict',
      value: {
        assignment: writeKey(key),
        verdict: verdict.accepted
          ? { case: 'accepted', value: {} }
          : { case: 'rejected', value: writeProblem(verdict.reason) },
      },
    }),
  ticket: (value: Extract<Event, { case: 'uploadTicket' }>['value']) => response({ case: 'uploadTicket', value }),
  desired: (desired: DesiredModels): SessionResponse => {
    const known = desiredMessages.get(desired) ?? writeDesired(desired);
    desiredMessages.set(desired, known);
    return known;
  },
  observedReceipt: () => response({ case: 'observedReceipt', value: {} }),
  superseded: (reason: ErrorBody) => response({ case: 'superseded', value: { reason: writeProblem(reason) } }),
  problem: (key: AssignmentKey | undefined, problem: ErrorBody) =>
    response({
      case: 'problemNotice',
      value: { problem: writeProblem(problem), ...(key === undefined ? {} : { assignment: writeKey(key) }) },
    }),
} as const;
