import { expect, test } from '@jest/globals';
import { Gathering } from './gathering.js';

test('the first item goes at once, and what arrives meanwhile goes together, each key by itself', async () => {
  const calls: string[] = [];
  const gates: (() => void)[] = [];
  const gathering = new Gathering<number, number>(async (key, items) => {
    calls.push(`${key}:${items.join()}`);
    await new Promise<void>((resolve) => gates.push(resolve));
    return items.map((item) => item * 10);
  }, 3);
  const results = [1, 2, 3, 4, 5].map((item) => gathering.add('a', item));
  const other = gathering.add('b', 6);
  expect(calls).toEqual(['a:1', 'b:6']);
  for (let opened = 0; opened < 4; opened++) {
    gates[opened]?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(await Promise.all([...results, other])).toEqual([10, 20, 30, 40, 50, 60]);
  expect(calls).toEqual(['a:1', 'b:6', 'a:2,3,4', 'a:5']);
  const later = gathering.add('a', 7);
  gates[4]?.();
  expect(await later).toBe(70);
});

test('a faulty item fails alone', async () => {
  const calls: string[] = [];
  const gathering = new Gathering<number, number>(async (_key, items) => {
    calls.push(items.join());
    if (items.includes(3)) throw new RangeError('three');
    return [...items];
  });
  const outcomes = await Promise.allSettled([1, 2, 3, 4].map((item) => gathering.add('a', item)));
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled']);
  expect(calls).toEqual(['1', '2,3,4', '2', '3', '4']);
});
