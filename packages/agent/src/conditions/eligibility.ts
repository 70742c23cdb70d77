import type { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { type Activity, type ConditionRules, unmetCondition } from './condition-rules.js';
import type { DeviceConditions } from './device-conditions.js';

/** The site's rules for each activity. */
export type Conditions = Readonly<Record<Activity, ConditionRules>>;

/** Says whether the machine may do something now. */
export class Eligibility {
  readonly #rules: Conditions;
  readonly #device: DeviceConditions;
  readonly #clock: Clock;

  constructor(rules: Conditions, device: DeviceConditions, clock: Clock) {
    this.#rules = rules;
    this.#device = device;
    this.#clock = clock;
  }

  /** `conditions_not_met`, or undefined when it may. `extra` goes before the site's own rules. */
  async unmet(activity: Activity, extra: ConditionRules = {}): Promise<OctomilError | undefined> {
    const rules = { ...this.#rules[activity], ...extra };
    if (Object.keys(rules).length === 0) return undefined;
    return unmetCondition(activity, rules, await this.#device.read(rules), this.#clock.now());
  }

  freeDiskBytes(): Promise<number | undefined> {
    return this.#device.freeDiskBytes();
  }
}
