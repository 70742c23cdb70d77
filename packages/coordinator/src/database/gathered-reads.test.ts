import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { GatheredReads } from './gathered-reads.js';

function recording(read: (keys: readonly number[]) => Promise<ReadonlyMap<string, string>>) {
  const statements: (readonly number[])[] = [];
  const reads = new GatheredReads<number, string>(String, (keys) => {
    statements.push(keys);
    return read(keys);
  });
  return { reads, statements };
}

const words = async (keys: readonly number[]): Promise<ReadonlyMap<string, string>> =>
  new Map(keys.filter((key) => key < 10).map((key) => [String(key), `word ${key}`]));

test('what is asked in one turn is one statement, with each key once', async () => {
  const { reads, statements } = recording(words);
  expect(await Promise.all([1, 2, 1, 99].map((key) => reads.get(key)))).toEqual([
    'word 1',
    'word 2',
    'word 1',
    undefined,
  ]);
  expect(statements).toEqual([[1, 2, 99]]);
});

test('what is asked during a statement is read by the next one, not answered by the one under way', async () => {
  let value = 'before';
  const { reads, statements } = recording(async () => {
    const seen = value;
    await sleep(5);
    return new Map([['1', seen]]);
  });
  const first = reads.get(1);
  await new Promise((resolve) => setImmediate(resolve));
  expect(statements).toHaveLength(1);
  value = 'after';
  expect(await Promise.all([first, reads.get(1), reads.get(1)])).toEqual(['before', 'after', 'after']);
  expect(statements).toHaveLength(2);
});

test('a statement that fails fails those who asked, and the next one is tried', async () => {
  let broken = true;
  const { reads } = recording(async (keys) => {
    if (broken) throw new OctomilError('network_unavailable', 'the database is away');
    return words(keys);
  });
  await expect(Promise.all([reads.get(1), reads.get(2)])).rejects.toThrow('the database is away');
  broken = false;
  expect(await reads.get(2)).toBe('word 2');
});

test('a key that the database refuses fails nobody else', async () => {
  const { reads } = recording(async (keys) => {
    if (keys.includes(7)) throw new OctomilError('invalid_input', 'seven is refused');
    return words(keys);
  });
  const answers = await Promise.allSettled([reads.get(1), reads.get(7), reads.get(2)]);
  expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
});

test('more keys than one statement takes are read by several', async () => {
  const { reads, statements } = recording(words);
  await Promise.all(Array.from({ length: 1_200 }, (_, key) => reads.get(key)));
  expect(statements.map((keys) => keys.length)).toEqual([500, 500, 200]);
});
