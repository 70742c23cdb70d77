import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { InProcessTrainer } from '@octomil/shared/training';
import { outgoingProblem } from '../training/outgoing-problem.js';
import { summarizeInProcess } from './summary.js';
import { withoutFolders } from './without-folders.js';

const SHAPE = { height: 2, width: 2, channels: 1 } as const;

let folder: string;
beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'octomil-folders-')));
  await mkdir(join(folder, 'ward-7'));
  await writeFile(join(folder, 'ward-7', 'jane-doe.csv'), 'a,b\n1,2\n');
  await symlink(join(folder, 'ward-7', 'jane-doe.csv'), join(folder, 'patients.csv'));
});
afterAll(() => rm(folder, { recursive: true }));

test('neither the folders of a file nor what a link leads to leave the site', () => {
  const path = join(folder, 'patients.csv');
  const text = `${path} is a link to ${join(folder, 'ward-7', 'jane-doe.csv')}`;
  expect(withoutFolders(text, [path])).toBe('patients.csv is a link to patients.csv');
  const problem = outgoingProblem(new OctomilError('data_unreadable', text), [path]);
  expect(problem.reason).toBe('patients.csv is a link to patients.csv');
});

test('a path that begins with another one, and one that is not there', () => {
  expect(withoutFolders('/data/a.csv.gz, /data/a.csv', ['/data/a.csv', '/data/a.csv.gz'])).toBe('a.csv.gz, a.csv');
  expect(withoutFolders('/x/$&.csv', ['/x/$&.csv'])).toBe('$&.csv');
});

test('pictures, which may be called as patients are, have no names outside', async () => {
  const scans = join(folder, 'scans');
  await mkdir(join(scans, 'ill'), { recursive: true });
  for (let i = 0; i < 12; i++) await writeFile(join(scans, 'ill', `jane-doe-${i}.png`), 'x');
  await writeFile(join(scans, 'john-roe.png'), 'x');
  const source = { path: scans, images: {} };
  const [summary] = await summarizeInProcess([source], new AbortController().signal);
  expect(summary?.inFull).toContain('the picture "john-roe.png" is in no folder of a class');
  expect(summary?.problem).toContain("scans: the picture (the site's log names it) is in no folder of a class");
  await rm(join(scans, 'john-roe.png'));
  const task = { kind: 'describe', source, target: { column: 'label' }, imageShape: SHAPE } as const;
  const error = await new InProcessTrainer().run(task).catch((thrown: OctomilError) => thrown);
  expect(error).toMatchObject({ reason: expect.stringContaining('jane-doe-0.png') });
  const told = outgoingProblem(error as OctomilError, [scans]).reason;
  expect(told).toContain("scans: the picture (the site's log names it): it cannot be read");
  expect(told).not.toContain('jane');
});
