import type { Clock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { matchesSelector, parseSelector } from '../devices/device-selector.js';
import type { DeviceFacts } from './desired.js';
import type { RolloutsInForce, StoredObject } from './rollouts-in-force.js';
import { inShare } from './share.js';

/** A decision is asked again after this: labels and shares may have changed. */
const REMEMBER_MS = 60_000;
const MAX_REMEMBERED = 20_000;

/**
 * Which files of versions a device may have: those of what it should run, and of what a rollout ever told it to run,
 * so that it can go back. What a device says of itself opens nothing.
 */
export class Downloads {
  readonly #database: Database;
  readonly #inForce: RolloutsInForce;
  readonly #factsOf: (deviceId: string) => Promise<DeviceFacts | undefined>;
  readonly #clock: Clock;
  readonly #remembered = new Map<string, { readonly object: StoredObject | undefined; readonly untilMs: number }>();

  constructor(options: {
    readonly database: Database;
    readonly inForce: RolloutsInForce;
    readonly factsOf: (deviceId: string) => Promise<DeviceFacts | undefined>;
    readonly clock: Clock;
  }) {
    this.#database = options.database;
    this.#inForce = options.inForce;
    this.#factsOf = options.factsOf;
    this.#clock = options.clock;
  }

  /** Of what the device should run; for one with a session, from memory. */
  async desired(deviceId: string, sha256: string): Promise<StoredObject | undefined> {
    const device = await this.#factsOf(deviceId);
    if (device === undefined) return undefined;
    const inForce = await this.#inForce.of(device.organizationId);
    const { models } = inForce.desiredBy(device);
    const holds = models.some(({ artifacts }) => artifacts.some((file) => file.sha256 === sha256));
    return holds ? inForce.objects.get(sha256) : undefined;
  }

  /** Of what a rollout told the device to run, now or earlier. */
  async told(deviceId: string, sha256: string): Promise<StoredObject | undefined> {
    return this.#remember(`${deviceId} ${sha256}`, async () => {
      const device = await this.#factsOf(deviceId);
      return device === undefined ? undefined : this.#told(device, sha256);
    });
  }

  async #remember(key: string, find: () => Promise<StoredObject | undefined>): Promise<StoredObject | undefined> {
    const nowMs = this.#clock.now();
    const known = this.#remembered.get(key);
    if (known !== undefined && known.untilMs > nowMs) return known.object;
    const object = await find();
    if (this.#remembered.size >= MAX_REMEMBERED) this.#remembered.clear();
    // Only what is allowed: a refusal may be mended by a rollout in the next moment.
    if (object !== undefined) this.#remembered.set(key, { object, untilMs: nowMs + REMEMBER_MS });
    return object;
  }

  async #told(device: DeviceFacts, sha256: string): Promise<StoredObject | undefined> {
    const { rows } = await sql<{
      object_key: string;
      size_bytes: number;
      placement_offset: number;
      share_ratio: number;
      selector: unknown;
    }>`
      select a.object_key, a.size_bytes, r.placement_offset, r.share_ratio, r.selector
      from rollouts r join artifacts a on a.version_id = r.version_id
      where r.organization_id = ${device.organizationId} and r.state <> 'draft' and a.sha256 = ${sha256}
      order by r.id desc`.execute(this.#database.kysely);
    const told = rows.find(
      (row) =>
        inShare(device.placement, row.placement_offset, row.share_ratio) &&
        matchesSelector(device, parseSelector(row.selector)),
    );
    return told === undefined ? undefined : { objectKey: told.object_key, sizeBytes: told.size_bytes };
  }
}
