import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { readSummaries } from './read-summary.js';
import type { Summarize } from './summary.js';

const DEADLY = '/data/deadly.csv';
const died = new OctomilError('training_failed', 'the process that reads the data sets ended (SIGKILL)');
const summarize: Summarize = async (sources) => {
  if (sources.some(({ path }) => path === DEADLY)) throw died;
  return sources.map(() => ({ rowCount: 10, format: 'csv', digest: 'd', problem: '' }));
};
const sources = ['/data/a.csv', 'https://store/b.csv', DEADLY, '/data/z.csv'].map((path) => ({ path }));

test('data that kill the process that reads them hide no other, here or from a store', async () => {
  const data = { acquire: async () => ({ source: { path: '/copy/b.csv' }, release: async () => undefined }) };
  const killed = { summary: { rowCount: 0, problem: expect.stringMatching(/training_failed.*SIGKILL/) }, died: true };
  const well = { summary: { rowCount: 10, problem: '' } };
  const { signal } = new AbortController();
  expect(await readSummaries(sources, data, summarize, signal)).toMatchObject([well, well, killed, well]);
  const deadlyCopy = { acquire: async () => ({ source: { path: DEADLY }, release: async () => undefined }) };
  expect(await readSummaries(sources, deadlyCopy, summarize, signal)).toMatchObject([well, killed, killed, well]);
});

test('a call that is cancelled ends', async () => {
  const data = { acquire: () => Promise.reject(new Error('remote')) };
  const stopping = new AbortController();
  const cancelled: Summarize = async () => {
    stopping.abort(new OctomilError('cancelled', 'stopped'));
    throw died;
  };
  await expect(readSummaries(sources, data, cancelled, stopping.signal)).rejects.toMatchObject({ code: 'cancelled' });
});
