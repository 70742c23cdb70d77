import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { BufferPool } from './file-pump.js';
import { pumpBytes, SmallFiles } from './small-files.js';

test('a file is read once, the least recently used is forgotten, and a failed read is repeated', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-small-'));
  const path = (name: string): string => join(folder, name);
  try {
    const files = new SmallFiles(8);
    await expect(files.read(path('a'), 4)).rejects.toMatchObject({ code: 'ENOENT' });
    for (const name of ['a', 'b', 'c']) await writeFile(path(name), `${name}${name}${name}${name}`);
    const a = await files.read(path('a'), 4);
    const b = await files.read(path('b'), 4);
    expect(await files.read(path('a'), 4)).toBe(a);
    await files.read(path('c'), 4);
    expect(await files.read(path('a'), 4)).toBe(a);
    const again = await files.read(path('b'), 4);
    expect(again).not.toBe(b);
    expect(again.toString()).toBe('bbbb');
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('a range of bytes goes out in chunks with their offsets', async () => {
  const sent: [string, number][] = [];
  await pumpBytes(Buffer.from('0123456789'), { start: 2, end: 9 }, new BufferPool(3), async (chunk, offset) => {
    sent.push([chunk.toString(), offset]);
  });
  expect(sent).toEqual([
    ['234', 2],
    ['567', 5],
    ['8', 8],
  ]);
});
