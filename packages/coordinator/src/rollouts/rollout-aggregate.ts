import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { Gates } from './gates.js';
import { MIN_COUNT, type RolloutAggregate } from './judge-gates.js';
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
  counted: number | null;
  counted_errors: number | null;
  counted_timed: number | null;
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
/** Devices whose middle stands for the middle of all: what is reported of a stage is not sorted as a whole. */
const MEDIAN_DEVICES = 1_001;
/** A device's mean latency and loss count up to so many times those of the device in the middle. */
const MAX_TIMES_MEDIAN = 10;

/** A device counts up to the device in the middle, and up to ten whatever that one has. */
function capped(count: RawBuilder<unknown>, median: RawBuilder<unknown>): RawBuilder<number> {
  // `least` passes over null, which here means that there is nothing to count.
  return sql<number>`case when ${count} is not null then least(${count}, greatest(${median}, ${sql.lit(MIN_COUNT)})) end`;
}

function near(figure: RawBuilder<unknown>, median: RawBuilder<unknown>): RawBuilder<number> {
  const limit = sql`${sql.lit(MAX_TIMES_MEDIAN)} * ${median}`;
  return sql<number>`case when ${figure} is not null then least(greatest(${figure}, -(${limit})), ${limit}) end`;
}

function medianOf(figure: RawBuilder<unknown>): RawBuilder<number> {
  return sql<number>`percentile_disc(0.5) within group (order by ${figure}) filter (where ${figure} is not null)`;
}

/**
 * What the devices of a rollout said of its version, in one statement: rows that name another version, which a device
 * had before or got after, do not count. Where a device's report counts no inferences, the events that it sent of them
 * do. Only what the gates ask for is read of the reports' JSON.
 *
 * No device decides by itself: ratios and means weigh each device by its inferences (or rows), but by no more than the
 * device in the middle has, and its latency and loss count up to ten times those in the middle. So one of k devices has at
 * most about 2/k of the say, whatever it claims (winsorized means; the caps have a breakdown point of one half).
 *
 * @returns undefined when the rollout is gone
 */
export async function readAggregate(
  database: Database,
  { id, previous_version_id: previousVersionId }: Pick<Rollout, 'id' | 'previous_version_id'>,
  { maxMetricDrop, maxLatencyRatio }: Pick<Gates, 'maxMetricDrop' | 'maxLatencyRatio'>,
): Promise<SeenRollout | undefined> {
  const figure = (of: 'evaluation' | 'baseline', name: string): RawBuilder<number> =>
    sql<number>`(m.health->${sql.lit(of)}->>${sql.lit(name)})::float8`;
  const pair =
    maxMetricDrop === null
      ? sql`null::float8 as rows, null::float8 as now, null::float8 as was`
      : sql`case when running.is and ${figure('evaluation', 'count')} >= ${MIN_COUNT} and ${figure('baseline', 'count')} >= ${MIN_COUNT}
          and ${figure('evaluation', maxMetricDrop.metric)} is not null
          and ${figure('baseline', maxMetricDrop.metric)} is not null then ${figure('evaluation', 'count')} end as rows,
        ${figure('evaluation', maxMetricDrop.metric)} as now, ${figure('baseline', maxMetricDrop.metric)} as was`;
  // Written out twice rather than named once: a hundred thousand rows under a name would be copied to be kept.
  const reports = sql`
    select m.state, running.is as runs, ${pair},
      case when not running.is then null when m.inferences > 0 then m.inferences else nullif(e.inferences, 0) end as inferences,
      case when m.inferences > 0 then m.inference_errors else e.errors end as errors,
      case when m.inferences > 0 then m.latency_ms else e.duration / e.timed end as latency,
      -- A report has the mean of all that succeeded, or none.
      case when m.inferences > 0 then case when m.latency_ms is not null then m.inferences - m.inference_errors end
        else e.timed end as timed
    from device_models m
    cross join lateral (select m.state = 'active' and m.active_version_id = m.version_id as is) running
    left join events e on e.device_id = m.device_id
    where m.rollout_id = ${id} and m.version_id = (select version_id from rollouts where id = ${id})`;
  const metrics =
    maxMetricDrop === null
      ? sql`null::float8 as metric_rows, null::float8 as metric_now, null::float8 as metric_was`
      : sql`sum(rows) as metric_rows,
        sum(row_weight * ${near(sql`now`, sql`now_median`)}) / sum(row_weight) as metric_now,
        sum(row_weight * ${near(sql`was`, sql`was_median`)}) / sum(row_weight) as metric_was`;
  const rowWeight =
    maxMetricDrop === null
      ? sql``
      : sql`, ${capped(sql`s.rows`, sql`l.rows`)} as row_weight, s.rows, s.now, s.was,
        l.now as now_median, l.was as was_median`;
  const { rows } = await sql<Row>`
    with events as (
      select device_id, sum(completed + failed)::float8 as inferences, sum(failed)::float8 as errors,
        sum(duration_ms) as duration,
        -- Not all that is completed says how long it took: the histogram counts those that do.
        nullif(sum((select sum(value::float8) from jsonb_each_text(duration_buckets))), 0) as timed
      from inference_aggregates
      where (version_id, organization_id) = (select version_id, organization_id from rollouts where id = ${id})
        and hour >= (select date_trunc('hour', started_at, 'UTC') from rollouts where id = ${id})
      group by device_id
    ), limits as (
      select ${medianOf(sql`inferences`)} as inferences, ${medianOf(sql`latency`)} as latency,
        ${medianOf(sql`rows`)} as rows, ${medianOf(sql`abs(now)`)} as now, ${medianOf(sql`abs(was)`)} as was
      from (select * from (${reports}) r where r.runs and (r.inferences is not null or r.rows is not null)
        limit ${MEDIAN_DEVICES}) middle
    ), seen as (
      select
        count(*) filter (where runs) as active,
        count(*) filter (where state = 'failed') as failed,
        count(*) filter (where state in ('pending', 'downloading')) as pending,
        count(*) filter (where state = 'waiting') as waiting,
        sum(inferences) as inferences, sum(inferences * error_ratio) as inference_errors,
        sum(weight) as counted, sum(weight * error_ratio) as counted_errors,
        sum(weight * timed_ratio) as counted_timed,
        sum(weight * timed_ratio * ${near(sql`latency`, sql`latency_median`)})
          / nullif(sum(weight * timed_ratio), 0) as latency_ms,
        ${metrics}
      from (
        select s.state, s.runs, s.inferences, s.errors / s.inferences as error_ratio, s.latency,
          s.timed / s.inferences as timed_ratio,
          ${capped(sql`s.inferences`, sql`l.inferences`)} as weight, l.latency as latency_median ${rowWeight}
        from (${reports}) s, limits l
        -- A fence: each of these is worked out once for a device, not once for each sum.
        offset 0
      ) weighed
    )
    select
      extract(epoch from now() - r.stage_started_at)::float8 as stage_seconds,
      coalesce(r.state = 'active' and r.next_stage_at <= now(), false) as due,
      seen.*
    from rollouts r, seen where r.id = ${id}`.execute(database.kysely);
  const [row] = rows;
  if (row === undefined) return undefined;
  const previous =
    maxLatencyRatio === null || previousVersionId === null ? undefined : await readLatency(database, previousVersionId);
  const { metric_rows: count, metric_now: value, metric_was: was } = row;
  return {
    due: row.due,
    aggregate: {
      stageSeconds: row.stage_seconds ?? 0,
      active: row.active,
      failed: row.failed,
      pending: row.pending,
      waiting: row.waiting,
      inferences: row.inferences ?? 0,
      inferenceErrors: Math.round(row.inference_errors ?? 0),
      countedInferences: row.counted ?? 0,
      countedErrors: row.counted_errors ?? 0,
      countedTimed: row.counted_timed ?? 0,
      latencyMs: row.latency_ms,
      previousLatencyMs: previous?.latency_ms ?? null,
      previousInferences: previous?.successes ?? 0,
      metric: count === null || value === null || was === null ? null : { count, value, previous: was },
    },
  };
}

async function readLatency(
  database: Database,
  versionId: string,
): Promise<{ latency_ms: number | null; successes: number | null } | undefined> {
  const weight = capped(sql`said.successes`, sql`l.successes`);
  const { rows } = await sql<{ latency_ms: number | null; successes: number | null }>`
    with said as (
      select latency_ms as latency, inferences - inference_errors as successes
      from device_models
      where active_version_id = ${versionId} and state = 'active' and inferences > inference_errors
        and latency_ms is not null
      limit ${PREVIOUS_DEVICES}
    ), limits as (
      select ${medianOf(sql`successes`)} as successes, ${medianOf(sql`latency`)} as latency from said
    )
    select sum(${weight} * ${near(sql`said.latency`, sql`l.latency`)}) / nullif(sum(${weight}), 0) as latency_ms,
      sum(said.successes) as successes
    from said, limits l`.execute(database.kysely);
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
