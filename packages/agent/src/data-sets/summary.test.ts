import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { type LogLine, recordingLogger } from '../testing/agent-under-test.js';
import { DataSetSummaries, type Summarize } from './summary.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-summaries-'));
});
afterEach(() => rm(folder, { recursive: true }));

test('a data set that kills the process that reads it does not hide the others, and heals', async () => {
  const paths = Object.fromEntries(['a', 'deadly', 'z'].map((name) => [name, join(folder, `${name}.csv`)]));
  for (const path of Object.values(paths)) await writeFile(path, 'x\n1\n');
  const dataSets = Object.fromEntries(Object.entries(paths).map(([name, path]) => [name, { path }]));
  const asked: string[] = [];
  let deadly = true;
  const summarize: Summarize = async (sources) => {
    asked.push(sources.map(({ path }) => path.slice(folder.length + 1, -4)).join(' '));
    if (deadly && sources.some(({ path }) => path === paths['deadly']))
      throw new OctomilError('training_failed', 'the process that reads the data sets ended (SIGKILL)');
    return sources.map(() => ({ rowCount: 10, format: 'csv', digest: 'd', problem: '' }));
  };
  const log: LogLine[] = [];
  const data = {
    acquire: () => Promise.reject(new Error('remote')),
    version: () => Promise.reject(new Error('remote')),
  };
  const path = join(folder, 'summaries.json');
  const summaries = new DataSetSummaries({ dataSets, path, summarize, data, logger: recordingLogger(log) });

  expect(await summaries.refresh()).toBe(true);
  expect(asked.splice(0)).toEqual(['a deadly z', 'a', 'deadly', 'z']);
  const killed = {
    name: 'deadly',
    rowCount: 0,
    format: 'csv',
    problem: expect.stringMatching(/training_failed.*SIGKILL/),
  };
  const well = { rowCount: 10, problem: '' };
  expect(summaries.current).toMatchObject([{ name: 'a', ...well }, killed, { name: 'z', ...well }]);

  // Tried again by itself, and told once.
  expect(await summaries.refresh()).toBe(false);
  expect(asked.splice(0)).toEqual(['deadly']);
  expect(log.filter(({ level }) => level === 'error')).toHaveLength(1);

  deadly = false;
  expect(await summaries.refresh()).toBe(true);
  expect(summaries.digestOf('deadly')).toBe('d');
  await summaries.stop();
});
