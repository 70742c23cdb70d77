import type { JsonObject, RoundState } from '../database/tables.js';
import type { Evaluation } from './round-metrics.js';
import type { AssignmentListRow, RoundRow, SessionRow } from './session-store.js';

/** Who acts next, until when, and why: what `status` shows for every wait. */
export interface Wait {
  readonly owner: string;
  readonly deadline_at: string | null;
  readonly reason_code: string;
  readonly reason: string;
}

const WAITS: Partial<Record<RoundState, { owner: string; code: string; reason: string }>> = {
  scheduled: { owner: 'coordinator', code: 'scheduled', reason: 'the coordinator is about to select devices' },
  selecting: { owner: 'devices', code: 'waiting_for_devices', reason: 'too few devices are online' },
  collecting: { owner: 'devices', code: 'collecting', reason: 'devices are working' },
  aggregating: { owner: 'coordinator', code: 'aggregating', reason: 'a coordinator computes the checkpoint' },
};

/** @returns null when nothing is waited for */
export function waitOf(
  round: Pick<
    RoundRow,
    'state' | 'owner' | 'owner_until' | 'deadline_at' | 'reason_code' | 'reason' | 'accepted_updates' | 'min_updates'
  >,
): Wait | null {
  const wait = WAITS[round.state];
  if (wait === undefined) return null;
  const progress = round.state === 'collecting' ? ` (${round.accepted_updates} of ${round.min_updates} answers)` : '';
  return {
    owner: round.owner === null ? wait.owner : `coordinator ${round.owner}`,
    deadline_at: time(round.state === 'aggregating' ? round.owner_until : round.deadline_at),
    reason_code: round.reason_code ?? wait.code,
    reason: round.reason ?? `${wait.reason}${progress}`,
  };
}

export function sessionView(row: SessionRow): JsonObject {
  const { config, round } = row;
  const paused: Wait | null =
    row.state === 'paused'
      ? { owner: 'person', deadline_at: null, reason_code: row.reasonCode ?? 'paused', reason: row.reason ?? 'paused' }
      : null;
  return {
    session_id: row.id,
    id: row.id,
    status: row.state,
    state: row.state,
    model_id: row.modelId,
    model: row.modelName,
    federation_id: row.federationId,
    federation: row.federationName,
    admission: config.admission ?? 'assigned',
    strategy: config.strategy,
    rounds: config.rounds,
    total_rounds: config.rounds,
    current_round: currentRound(row),
    current_kind: round?.kind ?? null,
    round_id: round?.id ?? null,
    round_state: round?.state ?? null,
    min_updates: config.minUpdates,
    base_version_id: row.baseVersionId,
    base_version: row.baseVersion,
    new_version: row.newVersion,
    result_version_id: row.resultVersionId,
    result_version: row.resultVersion,
    metrics: evaluationOrNull(row.resultMetrics),
    feature_spec_hash: row.featureSpecHash,
    reason_code: row.reasonCode,
    reason: row.reason,
    wait: row.state === 'running' && round !== null ? waitOf(round) : paused,
    config,
    ...(config.dryRun ? { report: round?.metrics['report'] ?? null } : {}),
    created_by: row.createdBy,
    created_at: time(row.createdAt),
    updated_at: time(row.updatedAt),
    finished_at: time(row.finishedAt),
  };
}

function currentRound({ round, config }: SessionRow): number {
  return Math.min(round?.number ?? 0, config.rounds);
}

/**
 * A round as users see it. Its `metrics` are those of the checkpoint that it made, which the sites evaluate when they
 * get it as the base of the round after.
 *
 * @param rounds of its session; the one after it is enough
 */
export function roundView(row: RoundRow, rounds: readonly RoundRow[]): JsonObject {
  const wait = waitOf(row);
  const evaluated =
    row.kind === 'evaluate'
      ? row
      : rounds.find(
          (other) =>
            row.checkpoint_id !== null && other.base_checkpoint_id === row.checkpoint_id && other.state === 'completed',
        );
  const { evaluation: _, drift, ...details } = row.metrics;
  return {
    round_id: row.id,
    id: row.id,
    session_id: row.session_id,
    number: row.number,
    round_number: row.number,
    kind: row.kind,
    attempt: row.attempt,
    state: row.state,
    status: row.state,
    owner: wait?.owner ?? null,
    deadline_at: time(row.deadline_at),
    reason_code: wait?.reason_code ?? row.reason_code,
    reason: wait?.reason ?? row.reason,
    wait,
    min_updates: row.min_updates,
    target_devices: row.target_devices,
    accepted_updates: row.accepted_updates,
    base_checkpoint_id: row.base_checkpoint_id,
    checkpoint_id: row.checkpoint_id,
    sha256: row.sha256,
    size_bytes: row.size_bytes,
    metrics: evaluationOrNull(evaluated?.metrics),
    details,
    // By site; null where none has told.
    drift: drift ?? null,
    created_at: time(row.created_at),
    started_at: time(row.started_at),
    finished_at: time(row.finished_at),
  };
}

export function assignmentView(row: AssignmentListRow): JsonObject {
  const working = row.state === 'open' || row.state === 'accepted';
  return {
    assignment_id: row.id,
    device_id: row.deviceId,
    device: row.deviceName,
    attempt: row.attempt,
    state: row.state,
    online: row.online,
    phase: row.phase,
    completed: row.completed,
    total: row.total,
    deadline_at: working ? time(row.leaseUntil) : null,
    reason_code: row.reasonCode,
    reason: row.reason,
    sample_count: row.sampleCount,
    weight: row.weight,
    update_sha256: row.sha256,
    update_size_bytes: row.sizeBytes,
  };
}

function evaluationOrNull(metrics: JsonObject | null | undefined): Evaluation | null {
  const evaluation = (metrics?.['evaluation'] ?? metrics) as Partial<Evaluation> | null | undefined;
  if (evaluation?.overall === undefined) return null;
  return { overall: evaluation.overall, sites: evaluation.sites ?? {} };
}

/** With a zone, whatever the driver or a JSON column gave. */
function time(value: Date | string | null): string | null {
  return value === null ? null : new Date(value).toISOString();
}
