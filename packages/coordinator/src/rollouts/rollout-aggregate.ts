import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { Gates } from './gates.js';
import type { RolloutAggregate } from './judge-gates.js';
import type { Rollout } from './rollout-store.js';

interface Row {
  stage_seconds: number | null;
  due: boolean;
  active: number;
  failed: number;
  pending: number;
  waiting: number;
  inferences: number | null;
  inference_errors: number | null;
  latency_ms: number | null;
  metric_rows: number | null;
  metric_now: number | null;
  metric_was: number | null;
}

export interface SeenRollout {
  readonly aggregate: RolloutAggregate;
  /** The time of the next stage has come. */
  readonly due: boolean;
}

/** Devices on the previous version that are looked at for their latency: enough for a mean, whatever the fleet. */
const PREVIOUS_DEVICES = 10_000;
/** Below this, a device's metrics are not looked at, whatever it says. */
const MIN_ROWS = 10;

/**
 * What the devices of a rollout said of its version, in one statement: rows that name another version, which a device
 * had before or got after, do not count. Only what the gates ask for is read, since reports are JSON. Where a device's
 * report counts no inferences, the events that it sent of them do.
 *
 * @returns undefined when the rollout is gone
 */
export async function readAggregate(
  database: Database,
  { id, previous_version_id: previousVersionId }: Pick<Rollout, 'id' | 'previous_version_id'>,
  { maxMetricDrop, maxLatencyRatio }: Pick<Gates, 'maxMetricDrop' | 'maxLatencyRatio'>,
): Promise<SeenRollout | undefined> {
  const figure = (of: 'evaluation' | 'baseline', name: string): RawBuilder<number> =>
    sql<number>`(health->${sql.lit(of)}->>${sql.lit(name)})::float8`;
  const pair =
    maxMetricDrop === null
      ? sql`null::float8 as rows, null::float8 as now, null::float8 as was`
      : sql`case when ${figure('evaluation', 'count')} >= ${MIN_ROWS} and ${figure('baseline', 'count')} >= ${MIN_ROWS}
          and ${figure('baseline', maxMetricDrop.metric)} is not null then ${figure('evaluation', 'count')} end as rows,
        ${figure('evaluation', maxMetricDrop.metric)} as now, ${figure('baseline', maxMetricDrop.metric)} as was`;
  const { rows } = await sql<Row>`
    with said as (
      select device_id, state, health, state = 'active' and active_version_id = version_id as running
      from device_models where rollout_id = ${id}
        and version_id = (select version_id from rollouts where id = ${id})
    ), events as (
      select device_id, sum(completed + failed)::float8 as inferences, sum(failed)::float8 as errors,
        sum(duration_ms) / nullif(sum(completed), 0)::float8 as latency
      from inference_aggregates
      where (version_id, organization_id) = (select version_id, organization_id from rollouts where id = ${id})
        and hour >= (select date_trunc('hour', started_at, 'UTC') from rollouts where id = ${id})
      group by device_id
    ), figures as (
      select case when counts then (health->>'inferences')::float8 else events.inferences end as inferences,
        case when counts then (health->>'inferenceErrors')::float8 else events.errors end as errors,
        case when counts then (health->'latencyMs'->>'mean')::float8 else events.latency end as latency, ${pair}
      from (select *, coalesce((health->>'inferences')::float8, 0) > 0 as counts from said where running) said
      left join events using (device_id)
    )
    select
      extract(epoch from now() - r.stage_started_at)::float8 as stage_seconds,
      coalesce(r.state = 'active' and r.next_stage_at <= now(), false) as due,
      counts.*, sums.*
    from rollouts r,
      (select count(*) filter (where running) as active,
        count(*) filter (where state = 'failed') as failed,
        count(*) filter (where state in ('pending', 'downloading')) as pending,
        count(*) filter (where state = 'waiting') as waiting from said) counts,
      (select sum(inferences) as inferences, sum(errors) as inference_errors,
        sum(latency * (inferences - errors))
          / nullif(sum(inferences - errors) filter (where latency is not null), 0) as latency_ms,
        sum(rows) filter (where now is not null) as metric_rows,
        sum(rows * now) as metric_now, sum(rows * was) filter (where now is not null) as metric_was
        from figures) sums
    where r.id = ${id}`.execute(database.kysely);
  const [row] = rows;
  if (row === undefined) return undefined;
  const previous =
    maxLatencyRatio === null || previousVersionId === null ? undefined : await readLatency(database, previousVersionId);
  const count = row.metric_rows ?? 0;
  return {
    due: row.due,
    aggregate: {
      stageSeconds: row.stage_seconds ?? 0,
      active: row.active,
      failed: row.failed,
      pending: row.pending,
      waiting: row.waiting,
      inferences: row.inferences ?? 0,
      inferenceErrors: row.inference_errors ?? 0,
      latencyMs: row.latency_ms,
      previousLatencyMs: previous?.latency_ms ?? null,
      previousInferences: previous?.successes ?? 0,
      metric:
        count === 0 ? null : { count, value: (row.metric_now ?? 0) / count, previous: (row.metric_was ?? 0) / count },
    },
  };
}

async function readLatency(
  database: Database,
  versionId: string,
): Promise<{ latency_ms: number | null; successes: number | null } | undefined> {
  const { rows } = await sql<{ latency_ms: number | null; successes: number | null }>`
    select sum(latency * successes) / nullif(sum(successes), 0) as latency_ms, sum(successes) as successes
    from (
      select (health->'latencyMs'->>'mean')::float8 as latency,
        (health->>'inferences')::float8 - (health->>'inferenceErrors')::float8 as successes
      from device_models
      where active_version_id = ${versionId} and state = 'active'
      limit ${PREVIOUS_DEVICES}
    ) said where latency is not null`.execute(database.kysely);
  return rows[0];
}

/** Devices with a live session that still hold on to the rollout. */
export async function devicesLeft(database: Database, rolloutId: number): Promise<number> {
  const { rows } = await sql<{ left: number }>`
    select count(*) as left from device_models
    join devices on devices.id = device_models.device_id
    where device_models.rollout_id = ${rolloutId} and device_models.state <> 'removed'
      and devices.status = 'active' and devices.lease_until > now()`.execute(database.kysely);
  return rows[0]?.left ?? 0;
}
