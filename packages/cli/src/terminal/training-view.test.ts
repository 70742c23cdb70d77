import { expect, test } from '@jest/globals';
import type { TrainingEvent } from '@octomil/sdk';
import { drawView, emptyView, foldEvent, type TrainingView } from './training-view.js';

function event(type: string, data: Record<string, unknown>): TrainingEvent {
  return { id: '1', type, data };
}

function fold(
  events: readonly TrainingEvent[],
  from: TrainingView = emptyView(3),
): { view: TrainingView; lines: string[] } {
  const lines: string[] = [];
  const view = events.reduce((before, next) => {
    const after = foldEvent(before, next);
    if (after.line !== undefined) lines.push(after.line);
    return after;
  }, from);
  return { view, lines };
}

const ROUND_2 = { roundNumber: 2, kind: 'train' };

test('tells of every checkpoint that was evaluated, under the round that made it', () => {
  const figures = { overall: { count: 80, loss: 0.5, accuracy: 0.75, auc: null }, sites: {} };
  const { lines } = fold([
    event('evaluation', { roundNumber: 0, kind: 'train', ...figures }),
    event('evaluation', { roundNumber: 1, kind: 'train', ...figures }),
    event('evaluation', { roundNumber: 3, kind: 'evaluate', ...figures }),
  ]);
  expect(lines).toEqual([
    'before training: loss 0.500  accuracy 0.750  (80 rows)',
    'round 1/3: loss 0.500  accuracy 0.750  (80 rows)',
    'round 3/3: loss 0.500  accuracy 0.750  (80 rows)',
  ]);
});

test('names sites that refuse, fail or are rejected, with their reason', () => {
  const { lines } = fold([
    event('assignment', { ...ROUND_2, device: 'basel', state: 'refused', reason: 'no rule allows it' }),
    event('update', { ...ROUND_2, device: 'zurich', state: 'rejected', reason: 'NaN in weight dense/kernel' }),
    event('round', { ...ROUND_2, state: 'insufficient_updates', reason: '1 of 3 updates: basel refused' }),
    event('session', { state: 'paused', reason: 'round 2 failed three times' }),
  ]);
  expect(lines).toEqual([
    'basel: refused, no rule allows it',
    'zurich: update rejected, NaN in weight dense/kernel',
    'round 2/3: 1 of 3 updates: basel refused',
    'session paused: round 2 failed three times',
  ]);
});

test('says once what stays the same from round to round, and from try to try', () => {
  const warning = 'column "ca": 90 % is missing';
  const changed = 'column "ca": 90 % is missing, against 5 %';
  const refused = event('assignment', { ...ROUND_2, device: 'basel', state: 'refused', reason: 'no rule allows it' });
  const short = event('round', { ...ROUND_2, state: 'insufficient_updates', reason: '0 of 2 updates' });
  const { lines } = fold([
    event('drift', { sites: { basel: [warning], chur: [warning] } }),
    event('drift', { sites: { basel: [warning], chur: [warning] } }),
    event('drift', { sites: { basel: [warning] } }),
    event('drift', { sites: { basel: [warning] }, changed: { chur: [changed, 'more'], uri: [changed] } }),
    event('drift', { sites: {}, changed: { chur: [changed], uri: [changed] } }),
    refused,
    short,
    refused,
    short,
    event('session', { state: 'paused', reason: '0 of 2 updates' }),
  ]);
  expect(lines).toEqual([
    `rows are unlike the others' at basel (and 1 more site): ${warning}`,
    `rows are unlike the others' at basel: ${warning}`,
    `rows have changed at chur (and 1 more site): ${changed}`,
    'basel: refused, no rule allows it',
    'round 2/3: 0 of 2 updates',
    'round 2/3: the same again',
    'session paused',
  ]);
});

test('says for whom a round waits', () => {
  const waiting = { reasonCode: 'waiting_for_devices', reason: '1 more of the 2 devices needed must come online' };
  const { lines, view } = fold([
    event('round', { ...ROUND_2, state: 'collecting' }),
    event('update', { ...ROUND_2, device: 'basel', state: 'accepted' }),
    event('round', { ...ROUND_2, state: 'collecting', ...waiting }),
    event('round', { ...ROUND_2, state: 'collecting', ...waiting }),
  ]);
  expect(lines).toEqual(['round 2/3: waiting, 1 more of the 2 devices needed must come online']);
  expect(view.accepted).toBe(1);
});

test('draws a bar per site and starts anew with each round', () => {
  const first = fold([
    event('round', { ...ROUND_2, state: 'selecting' }),
    event('assignment', { ...ROUND_2, device: 'basel', state: 'accepted', phase: 'train', completed: 5, total: 10 }),
    event('assignment', { ...ROUND_2, device: 'aarau', state: 'open' }),
    event('update', { ...ROUND_2, device: 'aarau', state: 'accepted' }),
  ]).view;
  const drawn = drawView(first, 80).split('\n');
  expect(drawn[0]).toMatch(/round 2\/3$/);
  expect(drawn[1]).toBe(`  aarau ${'█'.repeat(16)} done`);
  expect(drawn[2]).toBe(`  basel ${'█'.repeat(8)}${'░'.repeat(8)} train`);
  const next = foldEvent(first, event('round', { roundNumber: 3, kind: 'train', state: 'selecting' }));
  expect(next.sites.size).toBe(0);
  expect(next.accepted).toBe(0);
});

test('ignores events that a newer coordinator might send', () => {
  const { view, lines } = fold([event('weather', { sunny: true }), event('assignment', {}), event('evaluation', {})]);
  expect(lines).toEqual([]);
  expect({ ...view, line: undefined }).toEqual(emptyView(3));
});
