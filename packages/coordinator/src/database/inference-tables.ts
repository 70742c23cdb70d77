import type { Generated } from 'kysely';
import type { Json, JsonObject, Timestamp } from './column-types.js';

/** What was said of one generation; an event of a type counts once for each session. Never prompts or answers. */
export interface InferenceEventsTable {
  organization_id: string;
  session_id: string;
  event_type: 'generation_started' | 'generation_completed' | 'generation_failed';
  /** Of the registry, where it has the model; else the name that was said. */
  model_id: string;
  /** Semantic version, where the registry has it; else as it was said. */
  version: string;
  version_id: string | null;
  /** Of a registered device, else as it was said; empty where nobody said it. */
  device_id: string;
  modality: string;
  metrics: Json<JsonObject>;
  error_code: string | null;
  occurred_at: Timestamp;
  created_at: Timestamp;
}

/** Events added up by model, version, device and hour. */
export interface InferenceAggregatesTable {
  organization_id: string;
  model_id: string;
  version: string;
  device_id: string;
  hour: Timestamp;
  version_id: string | null;
  started: number;
  completed: number;
  failed: number;
  chunks: number;
  prompt_tokens: number;
  completion_tokens: number;
  /** Sum over the completed. */
  duration_ms: number;
  ttfc_ms: number;
  ttfc_count: number;
  /** Counts by bucket of the histogram, without the empty ones. */
  duration_buckets: Json<Record<string, number>>;
  ttfc_buckets: Json<Record<string, number>>;
}

export interface RoutingPoliciesTable {
  organization_id: string;
  /** Goes up with every change. */
  version: Generated<number>;
  policy: Json<JsonObject>;
  updated_at: Timestamp;
}
