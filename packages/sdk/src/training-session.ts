import { type ErrorCode, isErrorCode } from '@octomil/shared/errors';
import { OctomilClientError } from './client-error.js';
import type { HttpClient, RequestOptions } from './http-client.js';
import { camelNames } from './wire-names.js';
import { wirePath } from './wire-path.js';

/** How a model does on held-out rows. */
export interface Metrics {
  /** Rows. */
  readonly count: number;
  readonly loss: number | null;
  /** Null for regression. */
  readonly accuracy: number | null;
  /** Null unless both classes occur. */
  readonly auc: number | null;
}

export interface RoundMetrics {
  /** The sites' figures, weighted by their rows. The mean of their AUCs is not the AUC of all rows together. */
  readonly overall: Metrics | null;
  /** By device identifier; null where fewer than ten rows are held out. */
  readonly sites: Readonly<Record<string, Metrics | null>>;
}

export type SessionStatus = 'running' | 'paused' | 'completed' | 'failed' | 'cancelled';

export interface TrainingSession {
  readonly sessionId: string;
  readonly modelId: string;
  readonly status: SessionStatus;
  /** Why it is paused, failed or cancelled. */
  readonly reasonCode: string | null;
  readonly reason: string | null;
  /** Everything else that the coordinator says. */
  readonly [field: string]: unknown;
}

export interface TrainingRound {
  readonly roundId: string;
  /** 0 describes the data, 1 to N train, N + 1 evaluates the result. */
  readonly number: number;
  readonly kind: 'describe' | 'train' | 'evaluate';
  /** 1 for the first try. */
  readonly attempt: number;
  readonly state: string;
  /** Who acts next, until when, and why it stands where it stands. */
  readonly owner: string | null;
  readonly deadlineAt: string | null;
  readonly reasonCode: string | null;
  readonly reason: string | null;
  /** Seconds from start to finish; null until both are known. */
  readonly seconds: number | null;
  /** Of the checkpoint that this round made, evaluated in the round after it; null until then. */
  readonly metrics: RoundMetrics | null;
  readonly [field: string]: unknown;
}

/** What `await federation.train(...)` gives. */
export interface TrainingResult {
  readonly sessionId: string;
  readonly modelId: string;
  readonly status: 'completed';
  readonly version: string;
  /** Hex SHA-256 of the version's weights. */
  readonly digest: string;
  /** The training rounds that counted, in order. */
  readonly rounds: readonly TrainingRound[];
  /** Of the new version on the held-out rows; null where no site could evaluate. */
  readonly metrics: RoundMetrics | null;
}

type Asking = Pick<RequestOptions, 'signal' | 'maxAttempts'>;

export async function fetchSession(http: HttpClient, id: string, asking: Asking = {}): Promise<TrainingSession> {
  return readSession(await http.json('GET', wirePath('training', 'sessions', id), asking));
}

export async function fetchRounds(http: HttpClient, id: string, asking: Asking = {}): Promise<TrainingRound[]> {
  const answer = await http.json('GET', wirePath('training', 'sessions', id, 'rounds'), asking);
  return listOf(answer, 'rounds').map(readRound);
}

export function readSession(value: unknown): TrainingSession {
  const fields = camelNames(value as Record<string, unknown>);
  return {
    ...fields,
    sessionId: String(fields['sessionId'] ?? fields['id']),
    modelId: String(fields['modelId'] ?? ''),
    status: (fields['status'] ?? fields['state']) as SessionStatus,
    reasonCode: textOrNull(fields['reasonCode']),
    reason: textOrNull(fields['reason']),
  };
}

export function readRound(value: unknown): TrainingRound {
  const fields = camelNames(value as Record<string, unknown>);
  return {
    ...fields,
    roundId: String(fields['roundId'] ?? fields['id']),
    number: Number(fields['number'] ?? fields['roundNumber']),
    kind: (fields['kind'] ?? 'train') as TrainingRound['kind'],
    attempt: Number(fields['attempt'] ?? 1),
    state: String(fields['state'] ?? fields['status']),
    owner: textOrNull(fields['owner']),
    deadlineAt: textOrNull(fields['deadlineAt']),
    reasonCode: textOrNull(fields['reasonCode']),
    reason: textOrNull(fields['reason']),
    seconds: secondsBetween(fields['startedAt'], fields['finishedAt']),
    metrics: readMetrics(fields['metrics']),
  };
}

/** Null for anything that does not look like metrics: an empty object, say, before an evaluation. */
export function readMetrics(value: unknown): RoundMetrics | null {
  if (typeof value !== 'object' || value === null || !('overall' in value)) return null;
  const { overall, sites } = value as { overall: Metrics | null; sites?: Record<string, Metrics | null> };
  return { overall, sites: sites ?? {} };
}

/** Some lists come bare, some under a name. */
export function listOf(answer: unknown, name: string): unknown[] {
  if (Array.isArray(answer)) return answer;
  const inner = (answer as Record<string, unknown> | null)?.[name];
  return Array.isArray(inner) ? inner : [];
}

/** @returns why a session will not go on by itself, or undefined while it may */
export function sessionProblem(session: TrainingSession): OctomilClientError | undefined {
  if (session.status === 'running' || session.status === 'completed') return undefined;
  const named = isErrorCode(session.reasonCode) ? session.reasonCode : undefined;
  // A pause that a person asked for has no error's code and ends when a person says so; waiting for that is right.
  if (session.status === 'paused' && named === undefined) return undefined;
  const code: ErrorCode = named ?? (session.status === 'cancelled' ? 'cancelled' : 'training_failed');
  const reason = session.reason ?? `training session ${session.sessionId} is ${session.status}`;
  const next = session.status === 'paused' ? `; session ${session.sessionId} is paused and can be resumed` : '';
  return new OctomilClientError(code, `${reason}${next}`, {
    details: { sessionId: session.sessionId, status: session.status },
  });
}

function textOrNull(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null;
}

function secondsBetween(start: unknown, end: unknown): number | null {
  if (typeof start !== 'string' || typeof end !== 'string') return null;
  return (Date.parse(end) - Date.parse(start)) / 1000;
}
