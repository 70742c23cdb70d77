import { execFile } from 'node:child_process';
import { readdir, readFile, statfs } from 'node:fs/promises';
import { availableParallelism, loadavg } from 'node:os';
import { join } from 'node:path';
import type { ConditionRules, DeviceFacts } from './condition-rules.js';

/** What the machine says of itself. */
export interface DeviceConditions {
  /** Only what the rules name is looked at; the rest is undefined. Never rejects. */
  read(rules: ConditionRules): Promise<DeviceFacts>;
  /** On the disk of the state folder; undefined where it cannot be known. */
  freeDiskBytes(): Promise<number | undefined>;
}

export interface SystemConditionsOptions {
  readonly stateDir: string;
  /** What the site says of its network; undefined asks NetworkManager. */
  readonly metered: boolean | undefined;
  /** Default: Linux's. */
  readonly powerSupplyFolder?: string;
}

const NMCLI_TIMEOUT_MS = 2_000;

/** Battery from sysfs (Linux), network from NetworkManager's `nmcli` where it is installed, load and disk from Node. */
export class SystemConditions implements DeviceConditions {
  readonly #options: SystemConditionsOptions;

  constructor(options: SystemConditionsOptions) {
    this.#options = options;
  }

  async read(rules: ConditionRules): Promise<DeviceFacts> {
    const asksPower = rules.minBatteryPercent !== undefined || rules.charging === true;
    const power = asksPower
      ? await readPower(this.#options.powerSupplyFolder ?? '/sys/class/power_supply')
      : { batteryPercent: undefined, charging: undefined };
    return {
      ...power,
      metered: rules.unmetered === true ? (this.#options.metered ?? (await readMetered())) : undefined,
      loadPerCpu: rules.idle === true ? readLoad() : undefined,
      freeDiskBytes: rules.minFreeDiskMb === undefined ? undefined : await this.freeDiskBytes(),
    };
  }

  async freeDiskBytes(): Promise<number | undefined> {
    const found = await statfs(this.#options.stateDir).catch(() => undefined);
    return found === undefined ? undefined : found.bavail * found.bsize;
  }
}

/** Windows knows no load average and says 0. */
function readLoad(): number | undefined {
  if (process.platform === 'win32') return undefined;
  return (loadavg()[0] ?? 0) / availableParallelism();
}

/** https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-class-power; supplies of peripherals are passed over. */
async function readPower(folder: string): Promise<Pick<DeviceFacts, 'batteryPercent' | 'charging'>> {
  let batteryPercent: number | undefined;
  let charging: boolean | undefined;
  for (const name of await readdir(folder).catch(() => [])) {
    const field = async (key: string): Promise<string> =>
      (await readFile(join(folder, name, key), 'utf8').catch(() => '')).trim();
    if ((await field('scope')) === 'Device') continue;
    if ((await field('type')) === 'Battery') {
      const capacity = await field('capacity');
      if (/^\d+$/.test(capacity)) batteryPercent = Math.min(batteryPercent ?? 100, Number(capacity));
      const status = await field('status');
      if (status === 'Charging' || status === 'Full') charging = true;
      else if (status === 'Discharging') charging ??= false;
    } else {
      const online = await field('online');
      if (online === '1') charging = true;
      else if (online === '0') charging ??= false;
    }
  }
  return { batteryPercent, charging };
}

async function readMetered(): Promise<boolean | undefined> {
  const arguments_ = ['-t', '-f', 'GENERAL.STATE,GENERAL.METERED', 'device', 'show'];
  const text = await new Promise<string>((resolve) => {
    execFile(
      'nmcli',
      arguments_,
      { timeout: NMCLI_TIMEOUT_MS, env: { ...process.env, LC_ALL: 'C' } },
      (error, stdout) => resolve(error === null ? stdout : ''),
    );
  });
  return meteredOf(text);
}

/**
 * Pure. What `nmcli -t -f GENERAL.STATE,GENERAL.METERED device show` says of the devices that are connected: true when
 * one is metered (`yes`, `yes (guessed)`), undefined when none says anything.
 */
export function meteredOf(text: string): boolean | undefined {
  let metered: boolean | undefined;
  for (const device of text.split(/\n\s*\n/)) {
    if (!/^GENERAL\.STATE:100\b/m.test(device)) continue;
    const said = /^GENERAL\.METERED:(yes|no)\b/m.exec(device)?.[1];
    if (said === 'yes') return true;
    if (said === 'no') metered = false;
  }
  return metered;
}
