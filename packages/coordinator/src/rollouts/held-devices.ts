import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { Database } from '../database/database.js';
import type { DesiredModels, DeviceFacts } from './desired.js';
import { readDeviceFacts } from './device-facts.js';
import type { InForce, RolloutsInForce } from './rollouts-in-force.js';

/** The sliver of a device's session that desired state needs. */
export interface DesiredListener {
  readonly deviceId: string;
  readonly organizationId: string;
  /** Tells the device, unless it was told the same before. Cheap, and safe to repeat. */
  desire(desired: DesiredModels): void;
}

interface Held {
  readonly listener: DesiredListener;
  facts: DeviceFacts | undefined;
}

/** Devices that connect in a burst are read together. */
const GATHER_MS = 25;
/** So many are decided about before other work gets a turn. */
const AT_ONCE = 500;

/**
 * Tells the devices whose sessions this process holds what they should run, and again whenever that changes. What
 * decides about a device stays in memory with its session: a new stage costs one reading of rollouts, whatever the
 * number of devices.
 */
export class HeldDevices {
  readonly #database: Database;
  readonly #inForce: RolloutsInForce;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #held = new Map<string, Held>();
  readonly #organizations = new Map<string, Set<Held>>();
  #toRead = new Set<string>();
  #reading = false;
  readonly #telling = new Map<string, { again: boolean }>();
  /** What all devices of an organization were told last, so that an unchanged reading costs nothing. */
  readonly #told = new Map<string, InForce>();

  constructor(database: Database, inForce: RolloutsInForce, clock: Clock, logger: Logger) {
    this.#database = database;
    this.#inForce = inForce;
    this.#clock = clock;
    this.#logger = logger;
  }

  organizationIds(): ReadonlySet<string> {
    return new Set(this.#organizations.keys());
  }

  factsOf(deviceId: string): DeviceFacts | undefined {
    return this.#held.get(deviceId)?.facts;
  }

  /** A newer session of the same device takes the place of the older one. */
  opened(listener: DesiredListener): void {
    const before = this.#held.get(listener.deviceId);
    if (before !== undefined) this.closed(before.listener);
    const held: Held = { listener, facts: undefined };
    this.#held.set(listener.deviceId, held);
    const others = this.#organizations.get(listener.organizationId);
    if (others === undefined) this.#organizations.set(listener.organizationId, new Set([held]));
    else others.add(held);
    this.deviceChanged(listener.deviceId);
  }

  /** Only if it is still the one held. */
  closed(listener: DesiredListener): void {
    const held = this.#held.get(listener.deviceId);
    if (held?.listener !== listener) return;
    this.#held.delete(listener.deviceId);
    const others = this.#organizations.get(listener.organizationId);
    others?.delete(held);
    if (others?.size !== 0) return;
    this.#organizations.delete(listener.organizationId);
    this.#told.delete(listener.organizationId);
  }

  /** Its labels, groups or capabilities may have changed. */
  deviceChanged(deviceId: string): void {
    if (!this.#held.has(deviceId)) return;
    this.#toRead.add(deviceId);
    if (this.#reading) return;
    this.#reading = true;
    this.#clock.after(GATHER_MS, () => void this.#read());
  }

  /** All devices are read again, for what no notification told. */
  refresh(): void {
    for (const deviceId of this.#held.keys()) this.deviceChanged(deviceId);
  }

  /** Rollouts of the organization may have changed. */
  organizationChanged(organizationId: string): void {
    if (!this.#organizations.has(organizationId)) return;
    const under = this.#telling.get(organizationId);
    if (under !== undefined) {
      under.again = true;
      return;
    }
    void this.#tell(organizationId);
  }

  async #tell(organizationId: string): Promise<void> {
    const state = { again: true };
    this.#telling.set(organizationId, state);
    try {
      while (state.again) {
        state.again = false;
        const inForce = await this.#inForce.of(organizationId);
        if (this.#told.get(organizationId) === inForce) continue;
        await this.#tellAll(organizationId, [...(this.#organizations.get(organizationId) ?? [])]);
        if (this.#organizations.has(organizationId)) this.#told.set(organizationId, inForce);
      }
    } catch (error) {
      this.#logger.warn({ error, organizationId }, 'could not read rollouts; looking again in 5 s');
    } finally {
      this.#telling.delete(organizationId);
    }
  }

  async #tellAll(organizationId: string, devices: readonly Held[]): Promise<void> {
    for (let start = 0; start < devices.length; start += AT_ONCE) {
      if (start > 0) await nextTurn();
      // Asked for every part: what was read in between must not be overtaken by what is older.
      const inForce = await this.#inForce.of(organizationId);
      for (const { listener, facts } of devices.slice(start, start + AT_ONCE)) {
        if (facts !== undefined) listener.desire(inForce.desiredBy(facts));
      }
    }
  }

  async #read(): Promise<void> {
    const deviceIds = [...this.#toRead];
    this.#toRead = new Set();
    try {
      const facts = await readDeviceFacts(this.#database, deviceIds);
      const changed = new Map<string, Held[]>();
      for (const deviceId of deviceIds) {
        const held = this.#held.get(deviceId);
        if (held === undefined) continue;
        held.facts = facts.get(deviceId);
        const { organizationId } = held.listener;
        const others = changed.get(organizationId);
        if (others === undefined) changed.set(organizationId, [held]);
        else others.push(held);
      }
      for (const [organizationId, devices] of changed) await this.#tellAll(organizationId, devices);
    } catch (error) {
      // Nobody waits for devices that have gone; asking for them would go on after the coordinator stopped.
      for (const deviceId of deviceIds) if (this.#held.has(deviceId)) this.#toRead.add(deviceId);
      this.#reading = this.#toRead.size > 0;
      if (!this.#reading) return;
      this.#logger.warn({ error }, 'could not read what devices should run; trying again in a second');
      this.#clock.after(1_000, () => void this.#read());
      return;
    }
    if (this.#toRead.size > 0) this.#clock.after(GATHER_MS, () => void this.#read());
    else this.#reading = false;
  }
}
