import { expect, test } from '@jest/globals';
import { ManualClock } from '../testing/manual-clock.js';
import { bandwidthLimit } from './bandwidth.js';

const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
};

test('uploads and downloads share one limit, whoever asks first goes first', async () => {
  const clock = new ManualClock();
  const start = clock.now();
  // 8 Mbit/s are 1,000 bytes a millisecond.
  const bandwidth = bandwidthLimit(8, clock);
  const done: [string, number][] = [];
  const note = (name: string) => (): void => void done.push([name, clock.now() - start]);
  // A quarter of a second may go at once.
  void bandwidth.take(250_000).then(note('at once'));
  void bandwidth.take(1_000_000).then(note('upload'));
  void bandwidth.take(500_000).then(note('download'));
  await settled();
  expect(done).toEqual([['at once', 0]]);
  for (let ms = 0; ms < 2_000; ms += 100) {
    clock.advance(100);
    await settled();
  }
  expect(done.slice(1)).toEqual([
    ['upload', 1_000],
    ['download', 1_500],
  ]);
});

test('a pause is not saved up, and what was abandoned is not paid for', async () => {
  const clock = new ManualClock();
  const bandwidth = bandwidthLimit(8, clock);
  clock.advance(3_600_000);
  let done = false;
  const abandoned = new AbortController();
  const waiting = bandwidth.take(10_000_000, abandoned.signal);
  abandoned.abort(new Error('cancelled'));
  await expect(waiting).rejects.toThrow('cancelled');
  await bandwidth.take(250_000);
  void bandwidth.take(100_000).then(() => {
    done = true;
  });
  clock.advance(99);
  await settled();
  expect(done).toBe(false);
  clock.advance(1);
  await settled();
  expect(done).toBe(true);
});

test('bytes go out whole and in small pieces, without a limit in larger ones', async () => {
  const clock = new ManualClock();
  const bytes = new Uint8Array(100_000).map((_, index) => index);
  const pieces: Uint8Array[] = [];
  const sending = (async () => {
    for await (const piece of bandwidthLimit(0.8, clock).paced(bytes)) pieces.push(piece);
  })();
  for (let ms = 0; ms < 1_000; ms += 10) {
    clock.advance(10);
    await settled();
  }
  await sending;
  expect(pieces.length).toBeGreaterThan(4);
  expect(Buffer.concat(pieces).equals(bytes)).toBe(true);
  const larger: Uint8Array[] = [];
  for await (const piece of bandwidthLimit(undefined, clock).paced(bytes)) larger.push(piece);
  expect(larger.map(({ length }) => length)).toEqual([65_536, 100_000 - 65_536]);
  expect(Buffer.concat(larger).equals(bytes)).toBe(true);
});
