import type { Clock } from '@octomil/shared/runtime';
import type { HeldEpoch } from './presence.js';

interface Waiting {
  readonly held: HeldEpoch;
  readonly resolve: (stillHeld: boolean) => void;
  readonly reject: (error: unknown) => void;
}

/** Long enough to gather a burst, short beside a lease of seconds. */
const GATHER_MS = 25;

/** Gathers renewals, so that ten thousand devices cost a few statements a second rather than thousands. */
export class RenewalBatch {
  readonly #renew: (held: readonly HeldEpoch[]) => Promise<Set<string>>;
  readonly #clock: Clock;
  #waiting: Waiting[] = [];

  constructor(renew: (held: readonly HeldEpoch[]) => Promise<Set<string>>, clock: Clock) {
    this.#renew = renew;
    this.#clock = clock;
  }

  /** False when the epoch no longer holds. */
  renew(held: HeldEpoch): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ held, resolve, reject });
      if (this.#waiting.length === 1) this.#clock.after(GATHER_MS, () => void this.#flush());
    });
  }

  async #flush(): Promise<void> {
    const batch = this.#waiting;
    this.#waiting = [];
    // One row per device and statement: of two sessions of a device, the newer one is asked for.
    const newest = new Map<string, HeldEpoch>();
    for (const { held } of batch) {
      const other = newest.get(held.deviceId);
      if (other === undefined || other.epoch < held.epoch) newest.set(held.deviceId, held);
    }
    try {
      const renewed = await this.#renew([...newest.values()]);
      for (const { held, resolve } of batch) {
        resolve(renewed.has(held.deviceId) && newest.get(held.deviceId)?.epoch === held.epoch);
      }
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  }
}
