import { expect, test } from '@jest/globals';
import { bytesText } from './output.js';
import { barLine } from './transfer-bar.js';

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1.0 kB'],
  [1_536_000, '1.5 MB'],
  [2 ** 40, '1.1 TB'],
  [undefined, null],
])('%s bytes are %s', (bytes, text) => expect(bytesText(bytes)).toBe(text));

test('a bar is full when all of it is there, also of nothing, and never wider than the terminal', () => {
  expect(barLine('a.pt', 500, 1000, 80)).toBe(`a.pt  ${'█'.repeat(10)}${'░'.repeat(10)}  500 B of 1.0 kB`);
  expect(barLine('a.pt', 0, 0, 80)).toContain('█'.repeat(20));
  expect(barLine('a.pt', 5, 10, 12)).toHaveLength(11);
});
