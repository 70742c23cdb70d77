import { HISTOGRAM_BUCKETS, histogramPercentile } from '@octomil/inference/quality';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';

export const METRIC_GROUPS = ['model', 'version', 'device', 'hour'] as const;
export type MetricGroup = (typeof METRIC_GROUPS)[number];

export interface MetricsQuestion {
  readonly organizationId: string;
  /** Name or id. */
  readonly model: string | undefined;
  readonly version: string | undefined;
  /** Id or identifier. */
  readonly device: string | undefined;
  readonly from: Date;
  /** Exclusive. */
  readonly to: Date;
  readonly groups: readonly MetricGroup[];
  readonly limit: number;
}

interface Row {
  readonly key: Readonly<Record<string, string>>;
  readonly model: string | null;
  readonly started: number;
  readonly completed: number;
  readonly failed: number;
  readonly chunks: number;
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly duration_ms: number;
  readonly ttfc_ms: number;
  readonly ttfc_count: number;
  readonly durations: Readonly<Record<string, number>> | null;
  readonly ttfcs: Readonly<Record<string, number>> | null;
}

const COLUMNS: Readonly<Record<MetricGroup, RawBuilder<unknown>>> = {
  model: sql`'model_id', model_id`,
  version: sql`'version', version`,
  device: sql`'device_id', device_id`,
  hour: sql`'hour', to_char(hour at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')`,
};

/** How generations went, added up over what `groups` leave out; most used first. */
export async function readInferenceMetrics(
  database: Database,
  { organizationId, model, version, device, from, to, groups, limit }: MetricsQuestion,
): Promise<Record<string, unknown>[]> {
  const key =
    groups.length === 0
      ? sql`'{}'::jsonb`
      : sql`jsonb_build_object(${sql.join(groups.map((group) => COLUMNS[group]))})`;
  const isModel =
    model === undefined
      ? sql`true`
      : sql`model_id in (${model}, (select id from models where organization_id = ${organizationId}
          and deleted_at is null and lower(name) = lower(${model})))`;
  const isDevice =
    device === undefined
      ? sql`true`
      : sql`device_id in (${device}, (select id from devices where organization_id = ${organizationId}
          and device_identifier = ${device} limit 1))`;
  const isVersion = version === undefined ? sql`true` : sql`version = ${version}`;
  const histogram = (column: string): RawBuilder<unknown> => sql`
    select key, jsonb_object_agg(bucket, count) as counts from (
      select picked.key, entry.key as bucket, sum(entry.value::bigint)::float8 as count
      from picked, jsonb_each_text(${sql.ref(column)}) entry group by 1, 2) by_bucket group by key`;
  const { rows } = await sql<Row>`
    with picked as (
      select ${key} as key, started, completed, failed, chunks, prompt_tokens, completion_tokens, duration_ms, ttfc_ms,
        ttfc_count, duration_buckets, ttfc_buckets
      from inference_aggregates
      where organization_id = ${organizationId} and hour >= ${from} and hour < ${to}
        and ${isModel} and ${isVersion} and ${isDevice}
    ), sums as (
      select key, sum(started)::float8 as started, sum(completed)::float8 as completed, sum(failed)::float8 as failed,
        sum(chunks)::float8 as chunks, sum(prompt_tokens)::float8 as prompt_tokens,
        sum(completion_tokens)::float8 as completion_tokens, sum(duration_ms) as duration_ms, sum(ttfc_ms) as ttfc_ms,
        sum(ttfc_count)::float8 as ttfc_count
      from picked group by key order by 3 desc, key limit ${limit}
    ), durations as (${histogram('duration_buckets')}), ttfcs as (${histogram('ttfc_buckets')})
    select sums.*, durations.counts as durations, ttfcs.counts as ttfcs,
      (select name from models where id = sums.key->>'model_id' and organization_id = ${organizationId}) as model
    from sums left join durations using (key) left join ttfcs using (key)
    order by completed desc, key`.execute(database.kysely);
  return rows.map((row) => metricsJson(row));
}

function metricsJson(row: Row): Record<string, unknown> {
  const ended = row.completed + row.failed;
  const seconds = row.duration_ms / 1000;
  return {
    ...row.key,
    ...('model_id' in row.key ? { model: row.model ?? row.key['model_id'] } : {}),
    started: row.started,
    completed: row.completed,
    failed: row.failed,
    failure_ratio: ended === 0 ? null : row.failed / ended,
    prompt_tokens: row.prompt_tokens,
    completion_tokens: row.completion_tokens,
    chunks: row.chunks,
    chunks_per_second: seconds === 0 ? null : row.chunks / seconds,
    ttfc_ms: summary(row.ttfcs, row.ttfc_ms, row.ttfc_count),
    latency_ms: summary(row.durations, row.duration_ms, total(row.durations)),
  };
}

function total(counts: Row['durations']): number {
  return Object.values(counts ?? {}).reduce((sum, count) => sum + count, 0);
}

function summary(counts: Row['durations'], sumMs: number, count: number): Record<string, number | null> | null {
  if (counts === null || count === 0) return null;
  const buckets = Array.from({ length: HISTOGRAM_BUCKETS }, (_, bucket) => Number(counts[bucket] ?? 0));
  const at = (share: number): number | null => {
    const ms = histogramPercentile(buckets, share);
    return ms === null ? null : Math.round(ms * 10) / 10;
  };
  return { mean: Math.round((sumMs / count) * 10) / 10, p50: at(0.5), p95: at(0.95), p99: at(0.99) };
}
