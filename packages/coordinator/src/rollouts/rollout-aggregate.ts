import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { GateMetric } from './gates.js';
import type { MetricPair, RolloutAggregate } from './judge-gates.js';

interface Row {
  stage_seconds: number | null;
  due: boolean | null;
  active: number;
  failed: number;
  pending: number;
  waiting: number;
  inferences: number | null;
  inference_errors: number | null;
  latency_ms: number | null;
  [metric: string]: number | boolean | null;
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
 * had before or got after, do not count.
 *
 * @param previousVersionId whose latency is wanted too; undefined spares the statement that part
 * @returns undefined when the rollout is gone
 */
export async function readAggregate(
  database: Database,
  rolloutId: number,
  previousVersionId: string | undefined,
): Promise<SeenRollout | undefined> {
  const metric = (name: GateMetric) => sql`
    sum(rows) filter (where now_${sql.raw(name)} is not null and was_${sql.raw(name)} is not null) as ${sql.raw(name)}_rows,
    sum(rows * now_${sql.raw(name)}) filter (where was_${sql.raw(name)} is not null) as ${sql.raw(name)}_now,
    sum(rows * was_${sql.raw(name)}) filter (where now_${sql.raw(name)} is not null) as ${sql.raw(name)}_was`;
  const figures = (name: GateMetric) => sql`
    (evaluation->>${sql.lit(name)})::float8 as now_${sql.raw(name)}, (baseline->>${sql.lit(name)})::float8 as was_${sql.raw(name)}`;
  const { rows } = await sql<Row>`
    with said as (
      select state, active_version_id, version_id, health,
        (health->>'inferences')::float8 as inferences,
        (health->>'inferenceErrors')::float8 as errors,
        (health->'latencyMs'->>'mean')::float8 as latency,
        health->'evaluation' as evaluation, health->'baseline' as baseline
      from device_models where rollout_id = ${rolloutId}
        and version_id = (select version_id from rollouts where id = ${rolloutId})
    ), running as (
      select *, inferences - errors as successes,
        case when (evaluation->>'count')::float8 >= ${MIN_ROWS} and (baseline->>'count')::float8 >= ${MIN_ROWS}
          then (evaluation->>'count')::float8 end as rows,
        ${figures('accuracy')}, ${figures('auc')}, ${figures('loss')}
      from said where state = 'active' and active_version_id = version_id
    )
    select
      extract(epoch from now() - r.stage_started_at)::float8 as stage_seconds,
      coalesce(r.state = 'active' and r.next_stage_at <= now(), false) as due,
      counts.*, health.*
    from rollouts r,
      (select count(*) filter (where state = 'active' and active_version_id = version_id) as active,
        count(*) filter (where state = 'failed') as failed,
        count(*) filter (where state in ('pending', 'downloading')) as pending,
        count(*) filter (where state = 'waiting') as waiting from said) counts,
      (select sum(inferences) as inferences, sum(errors) as inference_errors,
        sum(latency * successes) / nullif(sum(successes) filter (where latency is not null), 0) as latency_ms,
        ${metric('accuracy')}, ${metric('auc')}, ${metric('loss')} from running) health
    where r.id = ${rolloutId}`.execute(database.kysely);
  const [row] = rows;
  if (row === undefined) return undefined;
  const previous = previousVersionId === undefined ? undefined : await readLatency(database, previousVersionId);
  const pair = (name: GateMetric): MetricPair | null => {
    const count = Number(row[`${name}_rows`] ?? 0);
    if (count === 0) return null;
    return { count, value: Number(row[`${name}_now`]) / count, previous: Number(row[`${name}_was`]) / count };
  };
  return {
    due: row.due === true,
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
      metrics: { accuracy: pair('accuracy'), auc: pair('auc'), loss: pair('loss') },
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
