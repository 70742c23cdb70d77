import type { ColumnType, Generated } from 'kysely';
import type { Json, JsonObject, NullableTimestamp, Timestamp } from './column-types.js';

export type RolloutState = 'draft' | 'active' | 'paused' | 'completed' | 'rolling_back' | 'rolled_back' | 'failed';

/**
 * A staged deployment. A device should run the version of the newest rollout of a model that is active, paused or
 * completed, whose selector it matches and in whose share it is: `(placement + placement_offset) mod 1 < share_ratio`.
 * Taking a rollout back is therefore one change of its state.
 */
export interface RolloutsTable {
  id: Generated<number>;
  organization_id: string;
  model_id: string;
  version_id: string;
  /** What most devices ran when it started: the reference of metric gates. Null when it was the first. */
  previous_version_id: string | null;
  state: RolloutState;
  /** 0 to 1, as all ratios here; REST speaks of percentages. */
  share_ratio: number;
  initial_ratio: number;
  target_ratio: number;
  increment_ratio: number;
  /** Null: it is advanced by hand. */
  advance_every_seconds: number | null;
  placement_offset: number;
  selector: Json<JsonObject>;
  gates: Json<JsonObject>;
  /** Goes up with every growth of the share. */
  stage: Generated<number>;
  stage_started_at: NullableTimestamp;
  next_stage_at: NullableTimestamp;
  /** A later rollout is completed at 100 % without a selector: this one can never decide again. */
  covered: Generated<boolean>;
  reason_code: string | null;
  reason: string | null;
  created_by: string;
  created_at: Timestamp;
  started_at: NullableTimestamp;
  finished_at: NullableTimestamp;
  updated_at: Timestamp;
}

export interface RolloutHistoryTable {
  id: Generated<number>;
  rollout_id: number;
  from_state: RolloutState | null;
  to_state: RolloutState;
  from_ratio: number | null;
  to_ratio: number;
  reason_code: string | null;
  reason: string | null;
  /** `key:<id>` or `coordinator`. */
  actor: string;
  created_at: Timestamp;
}

/** `waiting`: downloaded, but the device's own rules (battery, hours, disk) hold the activation back. */
export type DeviceModelState = 'pending' | 'downloading' | 'waiting' | 'active' | 'failed' | 'removed';

/** What a device last said of one model. What it should run is computed, never stored. */
export interface DeviceModelsTable {
  device_id: string;
  model_id: string;
  /** The rollout that asked for `version_id`. */
  rollout_id: number | null;
  /** What it is to run, as far as it knows. */
  version_id: string | null;
  active_version_id: string | null;
  previous_version_id: string | null;
  state: DeviceModelState;
  reason_code: string | null;
  reason: string | null;
  /** `DeviceModelHealth` of `version_id` since its activation. */
  health: ColumnType<JsonObject, string | undefined, string>;
  /** When `state` or `version_id` last changed. */
  changed_at: Timestamp;
  reported_at: Timestamp;
}
