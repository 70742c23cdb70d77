import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readFile, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { OctomilError } from '../errors/index.js';
import { testUnless } from './buckets/stand-in-server.js';
import type { ObjectStore } from './object-store.js';

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

/**
 * What every object store does. `open` gives an empty store and its cleaning up.
 *
 * @param noShortRanges why the server behind it cannot show reading by range
 */
export function objectStoreContract(
  name: string,
  open: () => Promise<{ store: ObjectStore; close: () => Promise<void> }>,
  { noShortRanges }: { readonly noShortRanges?: string | undefined } = {},
): void {
  describe(`ObjectStore contract on ${name}`, () => {
    let store: ObjectStore;
    let close: () => Promise<void>;
    beforeAll(async () => {
      ({ store, close } = await open());
    });
    afterAll(() => close());

    const keys = async (prefix: string) => {
      const found: string[] = [];
      for await (const { key } of store.list(prefix)) found.push(key);
      return found;
    };

    testUnless(noShortRanges, 'gives back what was put, whole and by range', async () => {
      const bytes = randomBytes(700_000);
      const put = await store.put('models/a/weights.safetensors', bytes);
      expect(put).toMatchObject({ key: 'models/a/weights.safetensors', sizeBytes: bytes.length });
      expect(await store.stat('models/a/weights.safetensors')).toEqual(put);
      expect(bytes.equals(await store.readAll('models/a/weights.safetensors', bytes.length))).toBe(true);
      expect(bytes.equals(await collect(store.read('models/a/weights.safetensors')))).toBe(true);
      for (const [start, end] of [
        [0, 1],
        [5, 300_001],
        [699_999, 700_000],
        [9, 9],
      ] as const) {
        const range = await collect(store.read('models/a/weights.safetensors', { start, end }));
        expect(bytes.subarray(start, end).equals(range)).toBe(true);
      }
    });

    test('takes a stream, replaces what was there, and keeps empty objects', async () => {
      async function* stream() {
        yield Buffer.from('first ');
        yield Buffer.from('second');
      }
      await store.put('replaced', Buffer.from('old and longer than the new one'));
      await store.put('replaced', stream());
      expect(Buffer.from(await store.readAll('replaced', 100)).toString()).toBe('first second');
      await store.put('empty', new Uint8Array());
      expect(await store.stat('empty')).toMatchObject({ sizeBytes: 0 });
      expect(await collect(store.read('empty'))).toHaveLength(0);
    });

    test('a put whose source fails changes nothing', async () => {
      async function* broken() {
        yield Buffer.from('half');
        throw new OctomilError('transfer_incomplete', 'the sender went away');
      }
      await store.put('kept', Buffer.from('before'));
      await expect(store.put('kept', broken())).rejects.toMatchObject({ code: 'transfer_incomplete' });
      await expect(store.put('never', broken())).rejects.toMatchObject({ code: 'transfer_incomplete' });
      expect(Buffer.from(await store.readAll('kept', 100)).toString()).toBe('before');
      expect(await store.stat('never')).toBeUndefined();
    });

    test('takes over a finished file', async () => {
      const folder = await mkdtemp(join(tmpdir(), 'octomil-object-'));
      const path = join(folder, 'update');
      const bytes = randomBytes(10_000);
      await writeFile(path, bytes);
      const lastYear = new Date(Date.now() - 365 * 24 * 3_600_000);
      await utimes(path, lastYear, lastYear);
      const { modifiedAtMs } = await store.putFile('updates/u1', path);
      expect(modifiedAtMs).toBeGreaterThan(Date.now() - 3_600_000);
      expect(bytes.equals(await store.readAll('updates/u1', 10_000))).toBe(true);
      await expect(readFile(path)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(store.putFile('updates/u2', path)).rejects.toThrow();
      expect(await store.stat('updates/u2')).toBeUndefined();
    });

    test('gives an object as a local file', async () => {
      const bytes = randomBytes(1_000);
      await store.put('local/file', bytes);
      const local = await store.localFile('local/file');
      const digest = (content: Uint8Array) => createHash('sha256').update(content).digest('hex');
      expect(digest(await readFile(local.path))).toBe(digest(bytes));
      await local.release();
      expect(await store.stat('local/file')).toBeDefined();
    });

    test('what is missing is not_found, and folders are no objects', async () => {
      await store.put('folder/inside', Buffer.from('x'));
      for (const key of ['missing', 'folder', 'folder/inside/deeper']) {
        expect(await store.stat(key)).toBeUndefined();
        await expect(store.readAll(key, 10)).rejects.toMatchObject({ code: 'not_found' });
        await expect(collect(store.read(key))).rejects.toMatchObject({ code: 'not_found' });
        await expect(collect(store.read(key, { start: 0, end: 0 }))).rejects.toMatchObject({ code: 'not_found' });
        await expect(store.localFile(key)).rejects.toMatchObject({ code: 'not_found' });
        await store.delete(key);
      }
      expect(await store.stat('folder/inside')).toBeDefined();
    });

    test('an object larger than allowed is refused before it is read', async () => {
      await store.put('large', Buffer.alloc(11));
      await expect(store.readAll('large', 10)).rejects.toMatchObject({ code: 'too_large' });
      await expect(store.localFile('large', 10)).rejects.toMatchObject({ code: 'too_large' });
    });

    test('lists by prefix, and deletes', async () => {
      for (const key of ['list/a/1', 'list/a/2', 'list/ab', 'list/b']) await store.put(key, Buffer.from(key));
      expect((await keys('list/')).sort()).toEqual(['list/a/1', 'list/a/2', 'list/ab', 'list/b']);
      expect((await keys('list/a')).sort()).toEqual(['list/a/1', 'list/a/2', 'list/ab']);
      expect(await keys('list/a/1')).toEqual(['list/a/1']);
      expect(await keys('nothing/')).toEqual([]);
      await store.delete('list/a/1');
      await store.delete('list/a/1');
      expect(await keys('list/a/')).toEqual(['list/a/2']);
    });

    test('refuses keys that leave the store or could not be stored everywhere', async () => {
      for (const key of [
        '',
        '/',
        'a//b',
        '../a',
        'a/../b',
        '.',
        'a/./b',
        'a b',
        'a\\b',
        'ä',
        'a/',
        '/a',
        'a\0b',
        'x'.repeat(300),
      ]) {
        await expect(store.put(key, Buffer.from('x'))).rejects.toMatchObject({ code: 'invalid_input' });
        await expect(store.stat(key)).rejects.toMatchObject({ code: 'invalid_input' });
      }
    });

    test('concurrent puts and deletes of neighbours all succeed', async () => {
      const work = Array.from({ length: 20 }, async (_, index) => {
        await store.put(`busy/${index % 4}/${index}`, Buffer.from(String(index)));
        if (index % 2 === 0) await store.delete(`busy/${index % 4}/${index}`);
      });
      await Promise.all(work);
      expect(await keys('busy/')).toHaveLength(10);
    });
  });
}
