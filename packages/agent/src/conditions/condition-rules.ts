import { OctomilError } from '@octomil/shared/errors';
import { formatTimeWindow, inTimeWindow, type TimeWindow } from './time-window.js';

/** What must hold of the machine before something is begun. All rules that are given must hold. */
export interface ConditionRules {
  /** 0 to 100. */
  readonly minBatteryPercent?: number;
  /** On mains power, whatever the battery holds. */
  readonly charging?: boolean;
  readonly unmetered?: boolean;
  /** The load of the last minute is below {@link IDLE_LOAD_PER_CPU}. */
  readonly idle?: boolean;
  /** One of them, in local time. */
  readonly timeWindows?: readonly TimeWindow[];
  /** MiB, on the disk of the state folder. */
  readonly minFreeDiskMb?: number;
}

export type Activity = 'training' | 'downloads' | 'activation';

/** The machine at the moment. What cannot be known is undefined, and counts as met. */
export interface DeviceFacts {
  readonly batteryPercent: number | undefined;
  readonly charging: boolean | undefined;
  readonly metered: boolean | undefined;
  readonly loadPerCpu: number | undefined;
  readonly freeDiskBytes: number | undefined;
}

/** One-minute load average per processor below which a machine counts as idle. */
export const IDLE_LOAD_PER_CPU = 0.5;

const MIB = 1_048_576;

/**
 * Pure. The first rule that does not hold, as `conditions_not_met` with the rule, the value and the limit in its details;
 * undefined when all hold.
 */
export function unmetCondition(
  activity: Activity,
  rules: ConditionRules,
  facts: DeviceFacts,
  nowMs: number,
): OctomilError | undefined {
  const unmet = (rule: string, reason: string, value: unknown, limit: unknown): OctomilError =>
    new OctomilError('conditions_not_met', `${activity} waits by the site's rule ${activity}.${rule}: ${reason}`, {
      details: { activity, rule, value, limit },
    });
  const { batteryPercent, charging, metered, loadPerCpu, freeDiskBytes } = facts;
  const { minBatteryPercent, timeWindows = [], minFreeDiskMb } = rules;
  if (minBatteryPercent !== undefined && batteryPercent !== undefined && batteryPercent < minBatteryPercent) {
    const reason = `the battery has ${batteryPercent} %, ${minBatteryPercent} % are needed`;
    return unmet('min_battery_percent', reason, batteryPercent, minBatteryPercent);
  }
  if (rules.charging === true && charging === false) {
    return unmet('charging', 'the machine runs on its battery', false, true);
  }
  if (rules.unmetered === true && metered === true) {
    return unmet('unmetered', 'the network is metered', false, true);
  }
  if (rules.idle === true && loadPerCpu !== undefined && loadPerCpu >= IDLE_LOAD_PER_CPU) {
    const load = Math.round(loadPerCpu * 100) / 100;
    return unmet(
      'idle',
      `the load is ${load} per processor, idle is below ${IDLE_LOAD_PER_CPU}`,
      load,
      IDLE_LOAD_PER_CPU,
    );
  }
  if (timeWindows.length > 0 && !timeWindows.some((window) => inTimeWindow(window, nowMs))) {
    const windows = timeWindows.map(formatTimeWindow);
    const now = new Date(nowMs);
    const time = `${String(now.getHours()).padStart(2, '0')}:${String(now.getMinutes()).padStart(2, '0')}`;
    return unmet('time_window', `it is ${time}, the window is ${windows.join(' or ')}`, time, windows);
  }
  if (minFreeDiskMb !== undefined && freeDiskBytes !== undefined && freeDiskBytes < minFreeDiskMb * MIB) {
    const freeMb = Math.floor(freeDiskBytes / MIB);
    return unmet(
      'min_free_disk_mb',
      `the disk has ${freeMb} MiB free, ${minFreeDiskMb} are needed`,
      freeMb,
      minFreeDiskMb,
    );
  }
  return undefined;
}
