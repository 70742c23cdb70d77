import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type DeviceSelector, matchesSelector } from '../devices/device-selector.js';
import { type DeviceFacts, decide } from './desired.js';
import { inShare } from './share.js';

const labels = fc.constantFrom('north', 'south');
const unit = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

function device(placement: number, region: string): DeviceFacts {
  const facts = { capabilities: {}, facts: {}, groups: [] };
  return { id: `${placement}`, organizationId: 'o', placement, labels: { region }, ...facts };
}

interface Row {
  readonly id: number;
  readonly modelId: string;
  readonly versionId: string;
  readonly share: number;
  readonly offset: number;
  readonly selector: DeviceSelector;
}

const rollout = fc.record({
  modelId: fc.constantFrom('a', 'b'),
  versionId: fc.constantFrom('v1', 'v2', 'v3'),
  share: fc.double({ min: 0, max: 1, noNaN: true }),
  offset: unit,
  selector: fc.oneof(
    fc.constant({}),
    labels.map((region) => ({ labels: { region } })),
  ),
});
const history = fc
  .array(rollout, { maxLength: 6 })
  .map((rows) => rows.map((row, index) => ({ ...row, id: index + 1 })));
const devices = fc.array(fc.tuple(unit, labels), { minLength: 1, maxLength: 30 });

/** The versions every device should run, by the rollouts in force. */
function desired(rows: readonly Row[], fleet: readonly DeviceFacts[]): string[] {
  const inForce = rows
    .toSorted((a, b) => b.id - a.id)
    .map((row) => ({
      ...row,
      holds: (one: DeviceFacts) => inShare(one.placement, row.offset, row.share) && matchesSelector(one, row.selector),
    }));
  return fleet.map((one) =>
    decide(inForce, one)
      .map(({ modelId, versionId }) => `${modelId} ${versionId}`)
      .join(', '),
  );
}

test('a rollout changes only devices in its share that it selects, and growth only adds to them', () => {
  fc.assert(
    fc.property(history, rollout, fc.double({ min: 0, max: 1, noNaN: true }), devices, (rows, next, more, fleet) => {
      const all = fleet.map(([placement, region]) => device(placement, region));
      const before = desired(rows, all);
      const id = rows.length + 1;
      const [small, large] = next.share < more ? [next.share, more] : [more, next.share];
      const at = (share: number) => desired([...rows, { ...next, id, versionId: 'new', share }], all);
      const first = at(small);
      const second = at(large);
      for (const [index, one] of all.entries()) {
        const selected = matchesSelector(one, next.selector);
        const reached = first[index]?.includes(`${next.modelId} new`) === true;
        expect(reached).toBe(selected && inShare(one.placement, next.offset, small));
        if (!reached) expect(first[index]).toBe(before[index]);
        else expect(second[index]).toContain(`${next.modelId} new`);
      }
    }),
  );
});

test('rollouts that a later one covers decide nothing, so that leaving them out changes nothing', () => {
  fc.assert(
    fc.property(history, devices, (rows, fleet) => {
      const all = fleet.map(([placement, region]) => device(placement, region));
      const covers = (row: Row) => row.share >= 1 && Object.keys(row.selector).length === 0;
      const whole = rows.map((row, index) => (index % 2 === 0 ? { ...row, share: 1, selector: {} } : row));
      const kept = whole.filter(
        (row) => !whole.some((other) => other.modelId === row.modelId && other.id > row.id && covers(other)),
      );
      expect(desired(kept, all)).toEqual(desired(whole, all));
    }),
  );
});
