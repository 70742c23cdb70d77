import type { Clock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { sqlState } from '../database/transact.js';
import type { ObservedDeviceModel } from './observed.js';
import { REACHES } from './reaches-sql.js';

interface Waiting {
  readonly deviceId: string;
  readonly models: readonly ObservedDeviceModel[];
  readonly resolve: (stored: ReadonlySet<string>) => void;
  readonly reject: (error: unknown) => void;
}

/** Long enough to gather a burst, short beside the 250 ms in which gates are judged. */
const GATHER_MS = 25;
const MAX_ROWS = 1_000;
/**
 * SQLSTATEs foreign_key_violation and deadlock_detected: a version or rollout that a device names was deleted while the
 * statement ran. The next look finds it gone, and the devices of the batch lose nothing over it.
 */
const DELETED_MEANWHILE = new Set(['23503', '40P01']);
const MAX_ATTEMPTS = 5;

/**
 * Stores what devices say of their models, many devices in one statement. Every id must be the organization's: an entry
 * about another model is left out; an unknown version, and a rollout that does not reach the device, are stored as none:
 * what a device says of a stage that it is not in must not decide about it.
 */
export class Observations {
  readonly #database: Database;
  readonly #clock: Clock;
  #waiting: Waiting[] = [];
  #writing = false;

  constructor(database: Database, clock: Clock) {
    this.#database = database;
    this.#clock = clock;
  }

  /** Answers the models that were stored, once they are durable. */
  store(deviceId: string, models: readonly ObservedDeviceModel[]): Promise<ReadonlySet<string>> {
    if (models.length === 0) return Promise.resolve(new Set());
    return new Promise((resolve, reject) => {
      this.#waiting.push({ deviceId, models, resolve, reject });
      if (this.#writing) return;
      this.#writing = true;
      this.#clock.after(GATHER_MS, () => void this.#flush());
    });
  }

  /** One statement at a time, so that the later word of a device is also the later row. */
  async #flush(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#take();
      try {
        const stored = await this.#writeAgain(batch);
        for (const { deviceId, resolve } of batch) resolve(stored.get(deviceId) ?? new Set());
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#writing = false;
  }

  #take(): Waiting[] {
    let rows = 0;
    let devices = 0;
    while (devices < this.#waiting.length && (rows < MAX_ROWS || devices === 0)) {
      rows += this.#waiting[devices]?.models.length ?? 0;
      devices += 1;
    }
    return this.#waiting.splice(0, devices);
  }

  async #writeAgain(batch: readonly Waiting[]): Promise<Map<string, Set<string>>> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#write(batch);
      } catch (error) {
        if (attempt >= MAX_ATTEMPTS || !DELETED_MEANWHILE.has(sqlState(error) ?? '')) throw error;
      }
    }
  }

  async #write(batch: readonly Waiting[]): Promise<Map<string, Set<string>>> {
    // The last word of each device about each model; a statement may touch a row only once.
    const newest = new Map<string, object>();
    for (const { deviceId, models } of batch) {
      for (const model of models) {
        newest.set(`${deviceId}\n${model.modelId}`, {
          device_id: deviceId,
          model_id: model.modelId,
          rollout_id: model.rolloutId,
          version_id: model.versionId,
          active_version_id: model.activeVersionId,
          previous_version_id: model.previousVersionId,
          state: model.state,
          reason_code: model.problem?.code ?? null,
          reason: model.problem?.message ?? null,
          health: model.health ?? {},
        });
      }
    }
    // Ordered, so that two coordinators never wait for each other's rows.
    const { rows } = await sql<{ device_id: string; model_id: string }>`
      insert into device_models (device_id, model_id, rollout_id, version_id, active_version_id, previous_version_id,
        state, reason_code, reason, health)
      select said.device_id, said.model_id, r.id, v.id, a.id, p.id, said.state, said.reason_code, said.reason, said.health
      from jsonb_to_recordset(${JSON.stringify([...newest.values()])}::text::jsonb) as said(
        device_id text, model_id text, rollout_id bigint, version_id text, active_version_id text,
        previous_version_id text, state text, reason_code text, reason text, health jsonb)
      join devices d on d.id = said.device_id
      join models m on m.id = said.model_id and m.organization_id = d.organization_id
      left join rollouts r on r.id = said.rollout_id and r.model_id = m.id and ${REACHES}
      left join versions v on v.id = said.version_id and v.model_id = m.id
      left join versions a on a.id = said.active_version_id and a.model_id = m.id
      left join versions p on p.id = said.previous_version_id and p.model_id = m.id
      order by said.device_id, said.model_id
      on conflict (device_id, model_id) do update set
        rollout_id = excluded.rollout_id, version_id = excluded.version_id,
        active_version_id = excluded.active_version_id, previous_version_id = excluded.previous_version_id,
        state = excluded.state, reason_code = excluded.reason_code, reason = excluded.reason, health = excluded.health,
        changed_at = case when (device_models.state, device_models.version_id)
          is distinct from (excluded.state, excluded.version_id) then now() else device_models.changed_at end,
        reported_at = now()
      returning device_id, model_id`.execute(this.#database.kysely);
    const stored = new Map<string, Set<string>>();
    for (const { device_id, model_id } of rows) {
      const models = stored.get(device_id);
      if (models === undefined) stored.set(device_id, new Set([model_id]));
      else models.add(model_id);
    }
    return stored;
  }
}
