import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { type ConditionRules, type DeviceFacts, unmetCondition } from './condition-rules.js';
import { meteredOf, SystemConditions } from './device-conditions.js';
import { inTimeWindow, parseTimeWindow } from './time-window.js';

const UNKNOWN: DeviceFacts = {
  batteryPercent: undefined,
  charging: undefined,
  metered: undefined,
  loadPerCpu: undefined,
  freeDiskBytes: undefined,
};
const at = (hours: number, minutes = 0): number => new Date(2026, 0, 15, hours, minutes).getTime();

test('a window within a day, one over midnight, and its ends', () => {
  const night = parseTimeWindow('22:00-06:00');
  expect([at(22), at(23, 59), at(0), at(5, 59)].map((now) => inTimeWindow(night, now))).toEqual(Array(4).fill(true));
  expect([at(6), at(12), at(21, 59)].map((now) => inTimeWindow(night, now))).toEqual(Array(3).fill(false));
  const noon = parseTimeWindow('12:00-13:30');
  expect([at(11, 59), at(12), at(13, 29), at(13, 30)].map((now) => inTimeWindow(noon, now))).toEqual([
    false,
    true,
    true,
    false,
  ]);
  expect(inTimeWindow(parseTimeWindow('20:00-24:00'), at(23, 59))).toBe(true);
});

test('each rule holds at its limit, fails below it with rule, value and limit, and counts as met where nothing is known', () => {
  const cases: [ConditionRules, Partial<DeviceFacts>, Partial<DeviceFacts>, object][] = [
    [
      { minBatteryPercent: 40 },
      { batteryPercent: 40 },
      { batteryPercent: 39 },
      { rule: 'min_battery_percent', value: 39, limit: 40 },
    ],
    [{ charging: true }, { charging: true }, { charging: false }, { rule: 'charging', value: false }],
    [{ unmetered: true }, { metered: false }, { metered: true }, { rule: 'unmetered' }],
    [{ idle: true }, { loadPerCpu: 0.49 }, { loadPerCpu: 0.5 }, { rule: 'idle', value: 0.5 }],
    [
      { minFreeDiskMb: 2 },
      { freeDiskBytes: 2 * 1_048_576 },
      { freeDiskBytes: 2 * 1_048_576 - 1 },
      { rule: 'min_free_disk_mb', value: 1, limit: 2 },
    ],
  ];
  for (const [rules, good, bad, details] of cases) {
    expect(unmetCondition('downloads', rules, { ...UNKNOWN, ...good }, at(12))).toBeUndefined();
    expect(unmetCondition('downloads', rules, UNKNOWN, at(12))).toBeUndefined();
    expect(unmetCondition('downloads', rules, { ...UNKNOWN, ...bad }, at(12))).toMatchObject({
      code: 'conditions_not_met',
      details: { activity: 'downloads', ...details },
    });
  }
  const windows = [parseTimeWindow('01:00-02:00'), parseTimeWindow('22:00-23:00')];
  expect(unmetCondition('training', { timeWindows: windows }, UNKNOWN, at(22, 30))).toBeUndefined();
  expect(unmetCondition('training', { timeWindows: windows }, UNKNOWN, at(12))?.reason).toBe(
    "training waits by the site's rule training.time_window: it is 12:00, the window is 01:00-02:00 or 22:00-23:00",
  );
});

test('battery and mains of the machine are read, those of its mouse are not; where there is none nothing is known', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-power-'));
  try {
    const supply = async (name: string, fields: Record<string, string>): Promise<void> => {
      await mkdir(join(folder, name), { recursive: true });
      for (const [key, value] of Object.entries(fields)) await writeFile(join(folder, name, key), `${value}\n`);
    };
    const rules = { minBatteryPercent: 50, charging: true };
    const conditions = new SystemConditions({ stateDir: folder, metered: true, powerSupplyFolder: folder });
    expect(await conditions.read(rules)).toMatchObject({ batteryPercent: undefined, charging: undefined });
    await supply('hidpp_battery_0', { type: 'Battery', scope: 'Device', capacity: '3', status: 'Discharging' });
    await supply('BAT0', { type: 'Battery', capacity: '61', status: 'Discharging' });
    await supply('AC', { type: 'Mains', online: '0' });
    expect(await conditions.read(rules)).toMatchObject({ batteryPercent: 61, charging: false, metered: undefined });
    await supply('AC', { online: '1' });
    expect(await conditions.read(rules)).toMatchObject({ charging: true });
    expect(await conditions.read({ unmetered: true, minFreeDiskMb: 1, idle: true })).toMatchObject({
      metered: true,
      freeDiskBytes: expect.any(Number),
      loadPerCpu: process.platform === 'win32' ? undefined : expect.any(Number),
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('a network counts as metered when a connected device says so, guessed or not', () => {
  const phone = 'GENERAL.STATE:100 (connected)\nGENERAL.METERED:yes (guessed)';
  const wire = 'GENERAL.STATE:100 (connected)\nGENERAL.METERED:no';
  const off = 'GENERAL.STATE:30 (disconnected)\nGENERAL.METERED:yes';
  expect([`${wire}\n\n${phone}`, `${wire}\n\n${off}\n`, off, ''].map(meteredOf)).toEqual([
    true,
    false,
    undefined,
    undefined,
  ]);
});
