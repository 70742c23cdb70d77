import { setImmediate } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { ManualClock } from '../testing/manual-clock.js';
import type { AuditEntry } from './audit-log.js';
import { FailureEntries } from './failure-entries.js';

const HOUR_MS = 3_600_000;

function underTest() {
  const clock = new ManualClock(Date.UTC(2026, 0, 2));
  const entries: AuditEntry[] = [];
  let full = false;
  const record = async (entry: AuditEntry): Promise<void> => {
    await setImmediate();
    if (full) throw new Error('full');
    entries.push(entry);
  };
  const failures = new FailureEntries({ audit: { record }, clock });
  const fail = (message: string, assignmentId = 'a', round = 1): Promise<boolean> =>
    failures.record({
      kind: 'failure',
      federation: 'heart',
      assignmentId,
      round,
      details: { code: 'unknown', message },
    });
  const setFull = (value: boolean): void => {
    full = value;
  };
  return { clock, entries, failures, fail, setFull };
}

test('what fails again within the hour is counted, and written again in the next', async () => {
  const { clock, entries, fail } = underTest();
  const told = [];
  for (let round = 1; round <= 500; round++) told.push(await fail('no file', `a${round}`, round));
  expect(told).toEqual(Array(500).fill(true));
  expect(entries).toEqual([expect.objectContaining({ assignmentId: 'a1', round: 1 })]);
  clock.advance(HOUR_MS);
  await setImmediate();
  await fail('no file', 'later');
  expect(entries.slice(1)).toEqual([
    {
      kind: 'failure',
      details: expect.objectContaining({ repeated: 499, leftOut: 0, since: '2026-01-02T00:00:00.000Z' }),
    },
    expect.objectContaining({ assignmentId: 'later' }),
  ]);
});

test('a flood of different failures leaves without reasons beyond thirty, and is counted', async () => {
  const { entries, failures, fail } = underTest();
  const told = await Promise.all(Array.from({ length: 1_000 }, (_, index) => fail(`no file ${index}`)));
  expect(told).toEqual([...Array(30).fill(true), ...Array(970).fill(false)]);
  expect(await fail('no file 3')).toBe(true);
  expect(entries).toHaveLength(31);
  expect(entries[30]?.details).toMatchObject({ code: 'rate_limited' });
  await failures.stop();
  expect(entries.slice(31)).toEqual([
    { kind: 'failure', details: expect.objectContaining({ repeated: 1, leftOut: 970 }) },
  ]);
});

test('what could not be written is written when it fails again, the limit too', async () => {
  const { entries, fail, setFull } = underTest();
  setFull(true);
  const both = await Promise.allSettled([fail('no file'), fail('no file')]);
  expect(both.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  setFull(false);
  for (let index = 0; index < 30; index++) expect(await fail(`no file ${index}`)).toBe(true);
  setFull(true);
  await expect(fail('another')).rejects.toThrow('full');
  setFull(false);
  expect(await fail('another')).toBe(false);
  expect(entries).toHaveLength(31);
});
