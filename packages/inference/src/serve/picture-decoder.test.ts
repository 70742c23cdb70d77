import { afterEach, expect, test } from '@jest/globals';
import { decodeImage, resizeImage } from '@octomil/shared/data';
import { type Clock, silentLogger, systemClock } from '@octomil/shared/runtime';
import { PictureDecoder } from './picture-decoder.js';
import { greyPng } from './testing/grey-png.js';

const SHAPE = { height: 2, width: 3, channels: 3 } as const;

let decoder: PictureDecoder | undefined;
afterEach(() => decoder?.stop());

/** Time stands still until `pass`. */
class StillClock implements Clock {
  readonly #waiting = new Map<() => void, number>();
  now = () => 0;
  sleep = systemClock.sleep;
  after = (delayMs: number, callback: () => void) => {
    this.#waiting.set(callback, delayMs);
    return () => void this.#waiting.delete(callback);
  };
  pass(delayMs: number): boolean {
    const due = [...this.#waiting].filter(([, waitMs]) => waitMs === delayMs);
    for (const [callback] of due) {
      this.#waiting.delete(callback);
      callback();
    }
    return due.length > 0;
  }
}

test('pictures are decoded as they are here, one after the other, and bad ones say what is wrong', async () => {
  const decoding = new PictureDecoder({ clock: systemClock, logger: silentLogger });
  decoder = decoding;
  const pictures = [greyPng(10), Buffer.from('GIF89a'), greyPng(200)];
  const [first, bad, last] = await Promise.allSettled(pictures.map((bytes) => decoding.decode(bytes, SHAPE)));
  expect(first).toEqual({ status: 'fulfilled', value: resizeImage(await decodeImage(greyPng(10)), SHAPE) });
  expect(last).toEqual({ status: 'fulfilled', value: resizeImage(await decodeImage(greyPng(200)), SHAPE) });
  expect(bad).toMatchObject({ status: 'rejected', reason: { code: 'data_unreadable' } });
});

test('others are answered while a large picture is decoded', async () => {
  decoder = new PictureDecoder({ clock: systemClock, logger: silentLogger });
  await decoder.decode(greyPng(1), SHAPE);
  const large = greyPng(1, 4_000);
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  await decoder.decode(large, SHAPE);
  clearInterval(timer);
  expect(turns).toBeGreaterThan(10);
});

test('a picture that takes too long, or whose sender left, is given up, and the next is decoded', async () => {
  const clock = new StillClock();
  decoder = new PictureDecoder({ clock, logger: silentLogger, limitMs: 7 });
  const slow = decoder.decode(greyPng(1), SHAPE);
  const left = new AbortController();
  const next = decoder.decode(greyPng(2), SHAPE, left.signal);
  const last = decoder.decode(greyPng(3), SHAPE);
  await Promise.resolve();
  expect(clock.pass(7)).toBe(true);
  await expect(slow).rejects.toMatchObject({ code: 'too_large', message: expect.stringContaining('longer than 7 ms') });
  left.abort(new Error('left'));
  await expect(next).rejects.toThrow('left');
  expect(await last).toHaveLength(18);
});

test('no more pictures wait than there is room for', async () => {
  const decoding = new PictureDecoder({ clock: systemClock, logger: silentLogger });
  decoder = decoding;
  const all = await Promise.allSettled(Array.from({ length: 66 }, () => decoding.decode(greyPng(1), SHAPE)));
  expect(all.slice(0, 64).every(({ status }) => status === 'fulfilled')).toBe(true);
  expect(all[65]).toMatchObject({ reason: { code: 'rate_limited' } });
});
