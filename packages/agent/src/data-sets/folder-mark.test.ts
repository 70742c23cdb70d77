import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { silentLogger } from '@octomil/shared/runtime';
import { folderMark } from './folder-mark.js';
import { DataSetSummaries } from './summary.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-mark-'));
  await mkdir(join(folder, 'n'));
});
afterEach(() => rm(folder, { recursive: true }));

test('the mark changes with names, sizes and what is added, and with nothing else', async () => {
  const path = join(folder, 'n', 'a.png');
  await writeFile(path, 'x');
  await symlink(join(folder, 'nowhere'), join(folder, 'n', 'link.png'));
  const marks = [await folderMark(folder)];
  expect(await folderMark(folder)).toBe(marks[0]);
  await writeFile(path, 'xy');
  marks.push(await folderMark(folder));
  await rename(path, join(folder, 'n', 'b.png'));
  marks.push(await folderMark(folder));
  await writeFile(join(folder, 'c.png'), '');
  marks.push(await folderMark(folder));
  expect(new Set(marks).size).toBe(4);
});

test('an agent that looks for changes among many pictures goes on with everything else', async () => {
  await Promise.all(Array.from({ length: 5_000 }, (_, i) => writeFile(join(folder, 'n', `${i}.png`), '')));
  const summary = { rowCount: 5_000, format: 'images', digest: 'd', problem: '' };
  let read = 0;
  const summaries = new DataSetSummaries({
    dataSets: { scans: { path: join(folder, 'n'), images: {} } },
    path: join(folder, 'summaries.json'),
    summarize: () => {
      read++;
      return Promise.resolve([summary]);
    },
    data: { acquire: () => Promise.reject(new TypeError()), version: () => Promise.reject(new TypeError()) },
    logger: silentLogger,
  });
  await summaries.refresh();
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  await summaries.refresh();
  clearInterval(timer);
  expect(read).toBe(1);
  expect(turns).toBeGreaterThan(10);
  await writeFile(join(folder, 'n', '7.png'), 'new');
  await summaries.refresh();
  expect(read).toBe(2);
});
