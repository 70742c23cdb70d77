import { expect, test } from '@jest/globals';
import { type LoadedSource, ModelCache } from './model-cache.js';

/** Models that note when they are loaded and unloaded. */
function shelf(): { notes: string[]; model: (name: string) => () => Promise<LoadedSource> } {
  const notes: string[] = [];
  const model = (name: string) => async (): Promise<LoadedSource> => {
    notes.push(`+${name}`);
    return {
      pieces: async function* () {
        yield { type: 'done' };
      },
      stop: async () => {
        notes.push(`-${name}`);
      },
    };
  };
  return { notes, model };
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('a model is loaded once, also by two at the same time', async () => {
  const { notes, model } = shelf();
  const cache = new ModelCache(100);
  const [a, b] = await Promise.all([cache.lease('a', 40, model('a')), cache.lease('a', 40, model('a'))]);
  expect(a.source).toBe(b.source);
  expect(notes).toEqual(['+a']);
});

test('what was not used for longest goes first, before the next is loaded', async () => {
  const { notes, model } = shelf();
  const cache = new ModelCache(100);
  const use = async (name: string): Promise<void> => (await cache.lease(name, 40, model(name))).release();
  await use('a');
  await use('b');
  await use('a');
  await use('c');
  expect(notes).toEqual(['+a', '+b', '-b', '+c']);
  expect(cache.names).toEqual(['a', 'c']);
});

test('nothing is unloaded under a generation; it goes when that ends', async () => {
  const { notes, model } = shelf();
  const cache = new ModelCache(50);
  const a = await cache.lease('a', 40, model('a'));
  const b = await cache.lease('b', 40, model('b'));
  expect(notes).toEqual(['+a', '+b']);
  b.release();
  await settled();
  // "a" works, "b" was used last: it may stay until another wants the room.
  expect(notes).toEqual(['+a', '+b']);
  a.release();
  a.release();
  await settled();
  expect(notes).toEqual(['+a', '+b', '-b']);
  const again = await cache.lease('a', 40, model('a'));
  await cache.drop('a');
  expect(notes).not.toContain('-a');
  again.release();
  await settled();
  expect(notes.at(-1)).toBe('-a');
});

test('a model larger than all the room is loaded all the same, alone', async () => {
  const { notes, model } = shelf();
  const cache = new ModelCache(50);
  (await cache.lease('a', 40, model('a'))).release();
  const large = await cache.lease('large', 500, model('large'));
  expect(notes).toEqual(['+a', '-a', '+large']);
  large.release();
});

test('a failure is not kept, and disposing unloads everything once', async () => {
  const { notes, model } = shelf();
  const cache = new ModelCache(100);
  const fails = cache.lease('a', 10, () => Promise.reject(new TypeError('no')));
  await expect(fails).rejects.toThrow('no');
  (await cache.lease('a', 10, model('a'))).release();
  await cache.lease('b', 10, model('b'));
  await cache.dispose();
  await cache.dispose();
  expect(notes).toEqual(['+a', '+b', '-a', '-b']);
});
