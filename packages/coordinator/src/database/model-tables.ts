import type { Generated } from 'kysely';
import type { Json, JsonObject, NullableJson, NullableTimestamp, Timestamp } from './column-types.js';

export interface ModelsTable {
  id: string;
  organization_id: string;
  name: string;
  framework: string | null;
  framework_version: string | null;
  use_case: string | null;
  description: string;
  is_baseline: Generated<boolean>;
  /** Architecture document, once known: from the caller or from the first training session. */
  architecture: NullableJson<JsonObject>;
  /** Such as `num>0`. */
  target: string | null;
  created_at: Timestamp;
  /** A deleted model that was trained: its row stays for the record of its trainings, its name is free again. */
  deleted_at: NullableTimestamp;
}

/** `converting`: formats that were asked for do not exist yet, so it cannot be published. */
export type VersionStatus = 'validating' | 'converting' | 'draft' | 'published' | 'deprecated';

export interface VersionsTable {
  id: string;
  model_id: string;
  /** 1, 2, 3 … within the model. */
  sequence: number;
  /** Semantic version. */
  version: string;
  status: VersionStatus;
  description: string;
  base_version_id: string | null;
  checkpoint_id: string | null;
  session_id: string | null;
  /** Base, strategy, rounds with their checkpoints' digests, participating devices, backend, feature spec hash. */
  lineage: Json<JsonObject>;
  metrics: Json<JsonObject>;
  /** `key:<id>` or `session:<id>`; null for versions made before it was kept. */
  created_by: string | null;
  created_at: Timestamp;
  published_at: NullableTimestamp;
}

export type ConversionState = 'pending' | 'running' | 'ready' | 'failed';

/** One format that a version was asked for. Its bytes are the artifact of the same format, once `ready`. */
export interface ConversionsTable {
  version_id: string;
  format: string;
  state: ConversionState;
  attempt: Generated<number>;
  reason_code: string | null;
  reason: string | null;
  /** Which coordinator converts, and until when it may be believed to. */
  owner: string | null;
  owner_until: NullableTimestamp;
  /** Of the store or the like, since it was asked for; it waits until `not_before` for the next attempt. */
  passing_failures: Generated<number>;
  not_before: NullableTimestamp;
  created_at: Timestamp;
  updated_at: Timestamp;
}

export interface ArtifactsTable {
  version_id: string;
  /** `safetensors`, `model.json`, or the format of an uploaded file. */
  format: string;
  file_name: string;
  object_key: string;
  sha256: string;
  size_bytes: number;
  created_at: Timestamp;
}

export interface ArtifactUploadsTable {
  id: string;
  storage_key: string;
  model_id: string;
  /** Of the version that it is or will be a file of; null until it arrived. */
  version_id: string | null;
  format: string | null;
  /** Its file name, who may send it, and what was asked when it was confirmed. */
  header: Json<JsonObject>;
  size_bytes: number;
  part_size_bytes: number;
  part_count: number;
  /** `arrived`: in the bucket, and looked at by a job. */
  state: 'open' | 'arrived' | 'completed' | 'abandoned';
  expires_at: Timestamp;
  created_at: Timestamp;
  claimed_by: string | null;
  claimed_until: Timestamp | null;
  attempts: Generated<number>;
  /** Why it does not count. */
  problem: Json<JsonObject> | null;
}

/** Weights that a device keeps to itself here, one for each model. */
export interface PersonalizedModelsTable {
  device_id: string;
  /** Empty where the device did not say. */
  model_id: string;
  object_key: string;
  sha256: string;
  size_bytes: number;
  /** Version of the model that it was made from. */
  version: string;
  metrics: Json<JsonObject>;
  updated_at: Timestamp;
}
