import { expect, test } from '@jest/globals';
import type { RoundDrift } from '@octomil/sdk';
import { driftLine, driftText } from './features-view.js';

const round = (roundNumber: number, told: Partial<RoundDrift>): RoundDrift => ({
  ...{ roundId: `r${roundNumber}`, roundNumber, reportingSites: 3 },
  ...{ driftedSites: 1, newDriftedSites: 0, changedSites: 0, sites: {} },
  ...told,
});
const report = (...rounds: RoundDrift[]) => ({
  ...{ sessionId: 's', featureSpecHash: null, drifted: true, changed: true },
  rounds,
});

test('one line says what has changed by the latest round, else who was unlike the others at first', () => {
  const first = round(1, { newDriftedSites: 1 });
  const changed = round(2, { changedSites: 2 });
  expect(driftLine(report(first, changed))).toContain('Rows have changed at 2 of 3 sites in round 2');
  // What was mended is no news any more; a site that was unlike the others from the start, of an earlier session, is none.
  expect(driftLine(report(first, changed, round(3, {})))).toContain(
    "Rows unlike the others' at 1 of 3 sites in round 1",
  );
  expect(driftLine(report(round(1, {}), round(2, {})))).toBeUndefined();
});

test('the table has both, and what the coordinator has not kept', async () => {
  const sites = {
    a: { columns: [], warnings: ['far off'], changed: ['moved'], leftOut: { columns: 0, warnings: 0, changed: 4 } },
    b: { columns: [], warnings: ['strange'] },
  };
  const shown = await driftText(report(round(2, { sites, changedSites: 1 })));
  expect(shown).toMatch(/2 +a +changed +moved/);
  expect(shown).toMatch(/2 +a +changed +and 4 more/);
  expect(shown).toMatch(/2 +a +unlike the others +far off/);
  expect(shown).toMatch(/2 +b +unlike the others +strange/);
});

test('what stays as it is is shown once, with its rounds', async () => {
  const site = (...warnings: string[]) => ({ a: { columns: [], warnings } });
  const rounds = [site('far off', 'new'), site('far off'), site('far off'), site(), site('far off')];
  const shown = await driftText(report(...rounds.map((sites, place) => round(place + 1, { sites }))));
  expect(shown).toMatch(/1–3, 5 +a +unlike the others +far off/);
  expect(shown).toMatch(/ 1 +a +unlike the others +new/);
  expect(shown.split('\n').filter((line) => line.includes('far off'))).toHaveLength(1);
});
