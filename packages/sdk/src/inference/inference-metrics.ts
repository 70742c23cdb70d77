import type { HttpClient } from '../http-client.js';
import { listOf } from '../training-session.js';
import { camelNames } from '../wire-names.js';

export interface InferenceMetricsOptions {
  /** Name or id. Default: all models. */
  readonly model?: string;
  readonly version?: string;
  /** Id or identifier. Default: all devices, and the gateway. */
  readonly device?: string;
  /** Default: 24 hours before `to`. Figures are kept by the hour. */
  readonly from?: Date;
  /** Exclusive. Default: now. */
  readonly to?: Date;
  /** A row for each of what these come to. Default model and version. */
  readonly groupBy?: readonly ('model' | 'version' | 'device' | 'hour')[];
  /** Rows at most, those with the most generations first. Default 100. */
  readonly limit?: number;
  readonly signal?: AbortSignal;
}

/** Milliseconds. */
export interface LatencySummary {
  readonly mean: number;
  readonly p50: number | null;
  readonly p95: number | null;
  readonly p99: number | null;
}

/** How generations went. Null is what nothing is known of. */
export interface InferenceMetrics {
  readonly modelId?: string;
  readonly model?: string;
  readonly version?: string;
  /** Empty for the gateway. */
  readonly deviceId?: string;
  readonly hour?: string;
  readonly started: number;
  readonly completed: number;
  readonly failed: number;
  /** Of those that ended, 0 to 1. */
  readonly failureRatio: number | null;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly chunks: number;
  readonly chunksPerSecond: number | null;
  /** Time to the first chunk. */
  readonly ttfcMs: LatencySummary | null;
  /** Of whole answers. */
  readonly latencyMs: LatencySummary | null;
}

export async function readInferenceMetrics(
  http: HttpClient,
  options: InferenceMetricsOptions,
): Promise<InferenceMetrics[]> {
  const { model, version, device, from, to, groupBy, limit, signal } = options;
  const query = {
    model_id: model,
    version,
    device_id: device,
    from: from?.toISOString(),
    to: to?.toISOString(),
    group_by: groupBy?.join(','),
    limit,
  };
  const rows = listOf(await http.json('GET', '/inference/metrics', { query, signal }), 'metrics');
  return rows.map((row) => camelNames(row as Record<string, unknown>) as unknown as InferenceMetrics);
}
