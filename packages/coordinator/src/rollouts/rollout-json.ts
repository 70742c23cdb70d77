import type { AffectedDevice } from './affected-devices.js';
import { gatesJson, parseGates } from './gates.js';
import type { Judgement } from './rollout-driver.js';
import type { HistoryEntry, Rollout } from './rollout-store.js';
import { percentageOf } from './share.js';

const time = (at: Date | null): string | null => at?.toISOString() ?? null;

/** A rollout as REST shows it. Percentages are 0 to 100. */
export function rolloutJson(rollout: Rollout): Record<string, unknown> {
  return {
    id: rollout.id,
    model_id: rollout.model_id,
    version: rollout.version,
    version_id: rollout.version_id,
    previous_version: rollout.previous_version,
    status: rollout.state,
    // Before its start: where it will begin.
    rollout_percentage: percentageOf(rollout.state === 'draft' ? rollout.initial_ratio : rollout.share_ratio),
    target_percentage: percentageOf(rollout.target_ratio),
    increment_step: percentageOf(rollout.increment_ratio),
    advance_every_seconds: rollout.advance_every_seconds,
    stage: rollout.stage,
    stage_started_at: time(rollout.stage_started_at),
    next_stage_at: time(rollout.next_stage_at),
    selector: rollout.selector,
    health: gatesJson(parseGates(rollout.gates)),
    reason_code: rollout.reason_code,
    reason: rollout.reason,
    created_by: rollout.created_by,
    created_at: time(rollout.created_at),
    started_at: time(rollout.started_at),
    finished_at: time(rollout.finished_at),
    updated_at: time(rollout.updated_at),
  };
}

/** What its devices said, and what the gates make of it. */
export function judgementJson({ seen, verdict }: Judgement, inStage: number): Record<string, unknown> {
  const { active, failed, pending, waiting } = seen.aggregate;
  return {
    devices: { in_stage: inStage, active, pending: pending + waiting, failed },
    gate: {
      verdict: verdict.verdict,
      gate: verdict.verdict === 'breach' ? verdict.gate : null,
      reason: verdict.verdict === 'ok' ? null : verdict.reason,
    },
  };
}

export function historyJson(entry: HistoryEntry): Record<string, unknown> {
  return {
    id: entry.id,
    rollout_id: entry.rollout_id,
    from_status: entry.from_state,
    to_status: entry.to_state,
    status: entry.to_state,
    from_percentage: entry.from_ratio === null ? null : percentageOf(entry.from_ratio),
    to_percentage: percentageOf(entry.to_ratio),
    reason_code: entry.reason_code,
    reason: entry.reason,
    actor: entry.actor,
    changed_by: entry.actor,
    created_at: time(entry.created_at),
  };
}

export function affectedJson(device: AffectedDevice): Record<string, unknown> {
  return {
    device_id: device.id,
    device_identifier: device.name,
    status: device.online ? 'online' : 'offline',
    // Of the rollout's version: what was said of another one is not about it.
    state: device.current ? device.state : null,
    active_version: device.active_version,
    reason_code: device.current ? device.reason_code : null,
    reason: device.current ? device.reason : null,
    reported_at: time(device.reported_at),
  };
}
