import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { generateHospitals } from './hospitals.js';
import { findSiteFiles, writeGeneratedSites } from './site-files.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-sites-'));
});
afterAll(() => rm(folder, { recursive: true }));

test('the same seed gives the same patients, another seed others', () => {
  expect(generateHospitals(7)).toEqual(generateHospitals(7));
  expect(generateHospitals(8)).not.toEqual(generateHospitals(7));
});

test('hospitals differ in size, prevalence and columns, and each has both outcomes', () => {
  const hospitals = generateHospitals(1);
  const prevalence = hospitals.map(({ patients }) => {
    return patients.filter((patient) => patient.cardiac_event === 1).length / patients.length;
  });
  expect(new Set(hospitals.map(({ patients }) => patients.length)).size).toBe(4);
  expect(new Set(hospitals.map(({ columns }) => columns.join())).size).toBe(4);
  expect(Math.max(...prevalence) - Math.min(...prevalence)).toBeGreaterThan(0.2);
  for (const share of prevalence) {
    expect(share).toBeGreaterThan(0.1);
    expect(share).toBeLessThan(0.9);
  }
});

test('writes two CSV and two Parquet files, which are found again by name', async () => {
  const written = await writeGeneratedSites(join(folder, 'generated'), 1);
  expect(written.map(({ path }) => path.replace(/.*\./, ''))).toEqual(['csv', 'parquet', 'csv', 'parquet']);
  await expect(findSiteFiles(join(folder, 'generated'))).resolves.toEqual(written);
  const csv = await readFile(join(folder, 'generated', 'hillcrest.csv'), 'utf8');
  expect(csv.split('\n')).toHaveLength(182);
  expect(csv).not.toContain('max_heart_rate');
  const parquet = await readFile(join(folder, 'generated', 'lakeview.parquet'));
  expect(parquet.subarray(0, 4).toString()).toBe('PAR1');
});

test('a folder that cannot be a federation is refused with what is in it', async () => {
  await expect(findSiteFiles(join(folder, 'absent'))).rejects.toMatchObject({ code: 'not_found' });
  await mkdir(join(folder, 'one'));
  await writeFile(join(folder, 'one', 'a.csv'), 'x,y\n');
  await writeFile(join(folder, 'one', 'notes.txt'), '');
  await expect(findSiteFiles(join(folder, 'one'))).rejects.toMatchObject({
    code: 'invalid_input',
    reason: expect.stringContaining('1 table file(s) (a.csv)'),
  });
  await writeFile(join(folder, 'one', 'a.parquet'), '');
  await expect(findSiteFiles(join(folder, 'one'))).rejects.toMatchObject({
    reason: expect.stringContaining('called a;'),
  });
});
