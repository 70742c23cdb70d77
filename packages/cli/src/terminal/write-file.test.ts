import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { requirePlaceFor, writeAtomically } from './write-file.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-write-file-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('a place is refused before the work where the file could not be written after it', async () => {
  await expect(requirePlaceFor(join(folder, 'missing', 'x.json'))).rejects.toThrow(
    /^\[invalid_input\] .*x\.json cannot be written: its folder cannot be written to \(ENOENT\)/,
  );
  await expect(requirePlaceFor(folder)).rejects.toThrow('it is a folder');
  await expect(requirePlaceFor(join(folder, 'x.json'))).resolves.toBeUndefined();
});

// Root may write everywhere.
(process.getuid?.() === 0 ? test.skip : test)('a folder that is closed to us is refused', async () => {
  await chmod(folder, 0o500);
  await expect(requirePlaceFor(join(folder, 'x.json'))).rejects.toThrow('(EACCES)');
  await chmod(folder, 0o700);
});

test('a file is replaced whole, and nothing is left beside it', async () => {
  const path = join(folder, 'x.json');
  await writeAtomically(path, 'one');
  expect(await writeAtomically(path, 'two')).toBe(path);
  expect(await readFile(path, 'utf8')).toBe('two');
  await expect(writeAtomically(join(folder, 'missing', 'x.json'), '')).rejects.toThrow('[invalid_input]');
  expect(await readdir(folder)).toEqual(['x.json']);
});
