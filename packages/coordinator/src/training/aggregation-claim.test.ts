import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, systemClock } from '@octomil/shared/runtime';
import { renewClaim } from './aggregation-claim.js';

/** Timers that run when the test says so. */
function heldClock(): { clock: Clock; due: (() => void)[] } {
  const due: (() => void)[] = [];
  const after = (_delayMs: number, callback: () => void) => {
    due.push(callback);
    return () => {
      const place = due.indexOf(callback);
      if (place >= 0) due.splice(place, 1);
    };
  };
  return { clock: { ...systemClock, after }, due };
}

test.each(['renewed', 'failed'] as const)(
  'a claim that is let go while a renewal is under way is not renewed again (%s)',
  async (outcome) => {
    const { clock, due } = heldClock();
    const { promise: renewal, resolve, reject } = Promise.withResolvers<boolean>();
    const rounds = { renew: () => renewal };
    const letGo = renewClaim({ clock, rounds, coordinatorId: 'c', ownerLeaseMs: 9 }, 'r', new AbortController());
    due.shift()?.();
    letGo();
    if (outcome === 'renewed') resolve(true);
    else reject(new OctomilError('network_unavailable', 'the database is away'));
    await Promise.allSettled([renewal]);
    await new Promise((done) => setImmediate(done));
    expect(due).toEqual([]);
  },
);

test('a renewal that failed is tried again while the claim is held', async () => {
  const { clock, due } = heldClock();
  const rounds = { renew: () => Promise.reject(new OctomilError('network_unavailable', 'the database is away')) };
  const letGo = renewClaim({ clock, rounds, coordinatorId: 'c', ownerLeaseMs: 9 }, 'r', new AbortController());
  due.shift()?.();
  await new Promise((done) => setImmediate(done));
  expect(due).toHaveLength(1);
  letGo();
  expect(due).toEqual([]);
});
