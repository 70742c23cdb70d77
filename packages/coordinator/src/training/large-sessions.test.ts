import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { describeOnDatabases } from '../testing/databases.js';
import { answer, type Fixture, openFixture, until } from './testing/training-fixture.js';
import { roundView } from './views.js';

describeOnDatabases('Sessions of many rounds, sites and events', (open) => {
  let on: Fixture;

  beforeEach(async () => {
    on = await openFixture(open);
  });
  afterEach(() => on.close());

  test('a round is shown as among all of its session, from it and the one after it alone', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const session = await on.session(engine, { rounds: 4, min_updates: 1 });
    for (let round = 1; round <= 4; round++) await answer(engine, a, 'a');
    await until(async () => (await on.state(session)).state === 'completed');
    const rounds = await engine.store.rounds(session);
    expect(rounds).toHaveLength(4);
    for (const [place, row] of rounds.entries()) {
      const few = await engine.store.roundAndNext(row.id);
      expect(few.map(({ number }) => number)).toEqual(place === 3 ? [4] : [row.number, row.number + 1]);
      expect(roundView(row, few)).toEqual(roundView(row, rounds));
    }
    expect(await engine.store.roundAndNext('none')).toEqual([]);
  });
});
