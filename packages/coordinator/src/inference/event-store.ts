import { bucketOf, type InferenceEvent, type InferenceEventMetrics } from '@octomil/inference/quality';
import { ERROR_CODES, isErrorCode } from '@octomil/shared/errors';
import { type Kysely, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { Tables } from '../database/tables.js';

/** Who says what happened. */
export interface EventSource {
  readonly organizationId: string;
  /**
   * Whether it may name enrolled devices: what is said in their name decides rollouts. From others such an event counts,
   * for no device.
   */
  readonly speaksForEnrolled: boolean;
}

/** An event and whose it is. */
export interface OwnedEvent extends EventSource {
  readonly event: InferenceEvent;
}

interface Resolved {
  readonly organization_id: string;
  readonly session_id: string;
  readonly event_type: InferenceEvent['event_type'];
  readonly model_id: string;
  readonly version: string;
  readonly version_id: string | null;
  readonly device_id: string;
  readonly metrics: InferenceEventMetrics;
  readonly error_code: string | undefined;
}

interface Inserted {
  readonly organization_id: string;
  readonly session_id: string;
  readonly event_type: string;
  readonly hour: string;
}

interface Sum {
  started: number;
  completed: number;
  failed: number;
  chunks: number;
  prompt_tokens: number;
  completion_tokens: number;
  duration_ms: number;
  ttfc_ms: number;
  ttfc_count: number;
  readonly duration_buckets: Record<string, number>;
  readonly ttfc_buckets: Record<string, number>;
}

const MAX_KEPT_NAME = 200;
/** A clock that is further off than these is not believed: such an event counts now. */
const MAX_AGE = '7 days';
const MAX_AHEAD = '5 minutes';

/**
 * Stores events and adds up those that are new, in one transaction: an event that is sent twice counts once, by
 * organization, session and type.
 *
 * @returns for each event, whether it was new
 */
export async function storeEvents(database: Database, owned: readonly OwnedEvent[]): Promise<boolean[]> {
  const resolved = await resolve(database, owned);
  const fresh = await database.transact(async (transaction) => {
    const inserted = await insert(transaction, owned, resolved);
    const hours = new Map(inserted.map((row) => [keyOf(row), row.hour]));
    await addUp(transaction, resolved, hours);
    return hours;
  });
  // Of two alike in one batch, the first is the new one.
  return resolved.map((row) => fresh.delete(keyOf(row)));
}

function keyOf({ organization_id, session_id, event_type }: Omit<Inserted, 'hour'>): string {
  return JSON.stringify([organization_id, session_id, event_type]);
}

/** What was said, by the ids of the registry. `latest` is what the device runs, where that is known. */
async function resolve(database: Database, owned: readonly OwnedEvent[]): Promise<Resolved[]> {
  const said = owned.map(({ organizationId, event }, place) => ({
    place,
    organization_id: organizationId,
    model: event.model_id,
    version: event.version ?? 'latest',
    device: event.device_id ?? '',
  }));
  const { rows } = await sql<{
    place: number;
    model_id: string | null;
    version_id: string | null;
    version: string | null;
    device_id: string | null;
    identity: 'enrolled' | 'shared' | null;
  }>`
    select said.place, m.id as model_id, d.id as device_id, d.identity, v.id as version_id, v.version
    from jsonb_to_recordset(${JSON.stringify(said)}::text::jsonb)
      as said(place integer, organization_id text, model text, version text, device text)
    left join lateral (
      select id from models where organization_id = said.organization_id and deleted_at is null
        and (id = said.model or lower(name) = lower(said.model))
      order by id = said.model desc limit 1) m on true
    left join lateral (
      select id, identity from devices where organization_id = said.organization_id and said.device <> ''
        and (id = said.device or device_identifier = said.device)
      order by id = said.device desc limit 1) d on true
    left join lateral (
      select id, version from versions where model_id = m.id and case
        when said.version = 'latest' then id = (
          select active_version_id from device_models where device_id = d.id and model_id = m.id)
        else version = said.version or id = said.version or sequence::text = said.version end
      limit 1) v on true`.execute(database.kysely);
  const found = new Map(rows.map((row) => [row.place, row]));
  return owned.map(({ organizationId, speaksForEnrolled, event }, place) => {
    const row = found.get(place);
    const isNamed = speaksForEnrolled || row?.identity !== 'enrolled';
    return {
      organization_id: organizationId,
      session_id: event.session_id,
      event_type: event.event_type,
      // Names that the registry does not know are part of a key, which has a longest size in PostgreSQL.
      model_id: row?.model_id ?? event.model_id.slice(0, MAX_KEPT_NAME).toWellFormed(),
      version: row?.version ?? event.version ?? 'latest',
      version_id: row?.version_id ?? null,
      device_id: isNamed ? (row?.device_id ?? event.device_id ?? '') : '',
      metrics: event.metrics ?? {},
      error_code: event.error_code,
    };
  });
}

async function insert(
  transaction: Kysely<Tables>,
  owned: readonly OwnedEvent[],
  resolved: readonly Resolved[],
): Promise<readonly Inserted[]> {
  const given = resolved.map((row, place) => {
    const event = owned[place]?.event;
    return {
      ...row,
      modality: event?.modality ?? 'text',
      error_code: event?.error_code ?? null,
      timestamp_ms: event?.timestamp_ms ?? null,
    };
  });
  // Ordered, so that two coordinators never wait for each other's rows.
  const { rows } = await sql<Inserted>`
    insert into inference_events (organization_id, session_id, event_type, model_id, version, version_id, device_id,
      modality, metrics, error_code, occurred_at)
    select organization_id, session_id, event_type, model_id, version, version_id, device_id, modality, metrics,
      error_code,
      case when said_at between now() - ${MAX_AGE}::interval and now() + ${MAX_AHEAD}::interval
        then said_at else now() end
    from jsonb_to_recordset(${JSON.stringify(given)}::text::jsonb) as said(organization_id text, session_id text,
      event_type text, model_id text, version text, version_id text, device_id text, modality text, metrics jsonb,
      error_code text, timestamp_ms float8),
      lateral (select to_timestamp(least(timestamp_ms, 32503680000000) / 1000) as said_at) at
    order by organization_id, session_id, event_type
    on conflict do nothing
    returning organization_id, session_id, event_type,
      to_char(date_trunc('hour', occurred_at, 'UTC') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:00:00"Z"') as hour`.execute(
    transaction,
  );
  return rows;
}

async function addUp(
  transaction: Kysely<Tables>,
  resolved: readonly Resolved[],
  hours: ReadonlyMap<string, string>,
): Promise<void> {
  const sums = new Map<string, Sum & Record<string, unknown>>();
  const counted = new Set<string>();
  for (const row of resolved) {
    const key = keyOf(row);
    const hour = hours.get(key);
    if (hour === undefined || counted.has(key)) continue;
    counted.add(key);
    const { organization_id, model_id, version, version_id, device_id } = row;
    const group = JSON.stringify([organization_id, model_id, version, device_id, hour]);
    const sum = sums.get(group) ?? { organization_id, model_id, version, version_id, device_id, hour, ...nothing() };
    sums.set(group, sum);
    add(sum, row);
  }
  if (sums.size === 0) return;
  await sql`
    insert into inference_aggregates as held (organization_id, model_id, version, device_id, hour, version_id, started,
      completed, failed, chunks, prompt_tokens, completion_tokens, duration_ms, ttfc_ms, ttfc_count, duration_buckets,
      ttfc_buckets)
    select organization_id, model_id, version, device_id, hour, version_id, started, completed, failed, chunks,
      prompt_tokens, completion_tokens, duration_ms, ttfc_ms, ttfc_count, duration_buckets, ttfc_buckets
    from jsonb_to_recordset(${JSON.stringify([...sums.values()])}::text::jsonb) as added(organization_id text,
      model_id text, version text, device_id text, hour timestamptz, version_id text, started bigint, completed bigint,
      failed bigint, chunks bigint, prompt_tokens bigint, completion_tokens bigint, duration_ms float8, ttfc_ms float8,
      ttfc_count bigint, duration_buckets jsonb, ttfc_buckets jsonb)
    order by organization_id, model_id, version, device_id, hour
    on conflict (organization_id, model_id, version, device_id, hour) do update set
      version_id = coalesce(excluded.version_id, held.version_id),
      started = held.started + excluded.started, completed = held.completed + excluded.completed,
      failed = held.failed + excluded.failed, chunks = held.chunks + excluded.chunks,
      prompt_tokens = held.prompt_tokens + excluded.prompt_tokens,
      completion_tokens = held.completion_tokens + excluded.completion_tokens,
      duration_ms = held.duration_ms + excluded.duration_ms, ttfc_ms = held.ttfc_ms + excluded.ttfc_ms,
      ttfc_count = held.ttfc_count + excluded.ttfc_count,
      duration_buckets = ${merged('duration_buckets')}, ttfc_buckets = ${merged('ttfc_buckets')}`.execute(transaction);
}

/** Both histograms, bucket by bucket. */
function merged(column: 'duration_buckets' | 'ttfc_buckets') {
  return sql`coalesce((
    select jsonb_object_agg(key, count) from (
      select key, sum(value::bigint) as count from (
        select * from jsonb_each_text(${sql.ref(`held.${column}`)})
        union all select * from jsonb_each_text(${sql.ref(`excluded.${column}`)})
      ) both_of_them group by key) by_bucket), '{}'::jsonb)`;
}

function nothing(): Sum {
  return {
    started: 0,
    completed: 0,
    failed: 0,
    chunks: 0,
    prompt_tokens: 0,
    completion_tokens: 0,
    duration_ms: 0,
    ttfc_ms: 0,
    ttfc_count: 0,
    duration_buckets: {},
    ttfc_buckets: {},
  };
}

/** A reader that left, and a question that was wrong, say nothing of the version that was to answer. */
function isFaultOfModel(code: string | undefined): boolean {
  if (!isErrorCode(code)) return true;
  return code !== 'cancelled' && ERROR_CODES[code].category !== 'input';
}

function add(sum: Sum, { event_type, metrics, error_code: code }: Resolved): void {
  if (event_type === 'generation_started') {
    sum.started += 1;
    return;
  }
  sum.chunks += Math.round(metrics.total_chunks ?? 0);
  sum.prompt_tokens += Math.round(metrics.prompt_tokens ?? 0);
  sum.completion_tokens += Math.round(metrics.completion_tokens ?? 0);
  if (event_type === 'generation_failed') {
    if (isFaultOfModel(code)) sum.failed += 1;
    return;
  }
  sum.completed += 1;
  const { total_duration_ms: durationMs, ttfc_ms: ttfcMs } = metrics;
  if (durationMs !== undefined) {
    sum.duration_ms += durationMs;
    count(sum.duration_buckets, durationMs);
  }
  if (ttfcMs !== undefined) {
    sum.ttfc_ms += ttfcMs;
    sum.ttfc_count += 1;
    count(sum.ttfc_buckets, ttfcMs);
  }
}

function count(buckets: Record<string, number>, ms: number): void {
  const bucket = String(bucketOf(ms));
  buckets[bucket] = (buckets[bucket] ?? 0) + 1;
}
