import { expect, test } from '@jest/globals';
import { columnWidths, fields } from './output.js';

const TITLES = ['ID', 'State', 'Reason'];
const ID = '67ab6576-34b0-4988-9f1a-0d6716182990';
const REASON = '0 of 2 updates arrived and no other device can be asked';

test('leaves a table alone that fits', () => {
  expect(columnWidths([TITLES, [ID, 'paused', 'none']], 48)).toBe('natural');
});

test('wraps between words, as wide as the terminal, and never within an id', () => {
  const widths = columnWidths([TITLES, [ID, 'paused', REASON]], 80);
  expect(widths).toEqual([ID.length, 'paused'.length, 80 - ID.length - 'paused'.length]);
});

test('shares what room there is among the columns that need it', () => {
  expect(
    columnWidths(
      [
        ['A', 'B'],
        ['a a a a a a a a a a', 'b b b b b b b b b b'],
        ['c', 'd'],
      ],
      20,
    ),
  ).toEqual([10, 10]);
});

test('gives a table up whose words are too wide', () => {
  expect(
    columnWidths(
      [
        ['ID', 'Of'],
        [ID, `sessions/${ID}`],
      ],
      80,
    ),
  ).toBeUndefined();
});

test('counts two columns for wide characters', () => {
  expect(
    columnWidths(
      [
        ['病院', '理由'],
        ['東京', '東京東京'],
      ],
      11,
    ),
  ).toBeUndefined();
  expect(
    columnWidths(
      [
        ['病院', '理由'],
        ['東京', '東京東京'],
      ],
      12,
    ),
  ).toBe('natural');
});

test('shows long nested values a line for each field, short ones as JSON', () => {
  const config = { rounds: 10, target: 'num>0', base: null, local: { epochs: 1 }, notes: 'x'.repeat(100) };
  expect(fields({ id: 'a', labels: { land: 'ch' }, empty: null, config })).toBe(
    [
      'id      a',
      'labels  {"land":"ch"}',
      'config  rounds  10',
      '        target  num>0',
      '        local   {"epochs":1}',
      `        notes   ${'x'.repeat(100)}`,
    ].join('\n'),
  );
});
