import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { outgoingProblem } from '../training/outgoing-problem.js';
import { withoutFolders } from './without-folders.js';

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
