import type { StreamMetrics } from './stream-meter.js';

export const INFERENCE_EVENT_TYPES = ['generation_started', 'generation_completed', 'generation_failed'] as const;
export type InferenceEventType = (typeof INFERENCE_EVENT_TYPES)[number];

/** Figures of an event, by their names on the wire. Times in milliseconds, `throughput` in chunks per second. */
export interface InferenceEventMetrics {
  readonly ttfc_ms?: number;
  readonly mean_chunk_latency_ms?: number;
  readonly total_chunks?: number;
  readonly total_duration_ms?: number;
  readonly throughput?: number;
  readonly prompt_tokens?: number;
  readonly completion_tokens?: number;
  /** The tokens were not counted by the engine itself. */
  readonly usage_estimated?: boolean;
}

/** What `POST /api/v1/inference/events` takes. It never holds a prompt or an answer. */
export interface InferenceEvent {
  readonly event_type: InferenceEventType;
  /** One generation. An event of a type counts once for each session. */
  readonly session_id: string;
  /** Name or id. */
  readonly model_id: string;
  /** Default `latest`. */
  readonly version?: string;
  readonly device_id?: string;
  readonly modality?: 'text' | 'image' | 'audio' | 'video';
  /** Since the epoch. */
  readonly timestamp_ms?: number;
  readonly metrics?: InferenceEventMetrics;
  /** Code of the failure. */
  readonly error_code?: string;
}

/** The figures of a meter by their names on the wire. */
export function eventMetrics(metrics: StreamMetrics): InferenceEventMetrics {
  return {
    ...(metrics.ttfcMs === null ? {} : { ttfc_ms: rounded(metrics.ttfcMs) }),
    ...(metrics.meanChunkLatencyMs === null ? {} : { mean_chunk_latency_ms: rounded(metrics.meanChunkLatencyMs) }),
    total_chunks: metrics.totalChunks,
    total_duration_ms: rounded(metrics.totalDurationMs),
    throughput: rounded(metrics.throughput),
  };
}

function rounded(value: number): number {
  return Math.round(value * 1000) / 1000;
}
