import { expect, test } from '@jest/globals';
import type { LlamaSequence } from './llama-library.js';
import { type Lease, SequencePool } from './sequence-pool.js';

const never = new AbortController().signal;

/** A sequence that has read these tokens. */
function having(tokens: readonly number[]): LlamaSequence {
  const compareContextTokens = (other: readonly number[]): { firstDifferentIndex: number } => {
    const at = tokens.findIndex((token, index) => token !== other[index]);
    return { firstDifferentIndex: at < 0 ? tokens.length : at };
  };
  return { compareContextTokens } as unknown as LlamaSequence;
}

test('a prompt gets the sequence that has read most of its beginning, else the one used longest ago', async () => {
  const [one, two, three] = [having([1, 2, 3]), having([1, 2, 9]), having([7])];
  const pool = new SequencePool([one, two, three]);
  const lease = await pool.take([1, 2, 9, 9], never);
  expect(lease.sequence).toBe(two);
  expect((await pool.take([5], never)).sequence).toBe(one);
  lease.release();
  expect((await pool.take([5], never)).sequence).toBe(three);
});

test('who finds none free waits in line, and may leave it', async () => {
  const pool = new SequencePool([having([])]);
  const first = await pool.take([1], never);
  const leaving = new AbortController();
  const order: number[] = [];
  const left = pool.take([2], leaving.signal).catch((error: unknown) => error);
  const noted = async (prompt: number): Promise<Lease> => {
    const lease = await pool.take([prompt], never);
    order.push(prompt);
    return lease;
  };
  const [second, third] = [noted(3), noted(4)];
  const why = new Error('gone');
  leaving.abort(why);
  expect(await left).toBe(why);
  first.release();
  first.release();
  (await second).release();
  (await third).release();
  expect(order).toEqual([3, 4]);
});
