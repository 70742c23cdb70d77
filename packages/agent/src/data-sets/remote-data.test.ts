import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { DataSource } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { systemClock } from '@octomil/shared/runtime';
import type { TrainerTask } from '@octomil/shared/training';
import { unlimited } from '../connection/bandwidth.js';
import { runDoctor } from '../doctor/doctor.js';
import { dryRun } from '../policy/dry-run.js';
import { type Bench, type LogLine, onBench, recordingLogger } from '../testing/agent-under-test.js';
import { FakeTrainer } from '../testing/fake-trainer.js';
import { columnsRead } from './columns-read.js';
import { FetchingTrainer } from './fetching-trainer.js';
import { outwardProblem } from './outward-problem.js';
import { SiteData } from './site-data.js';
import { DataSetSummaries, summarizeInProcess } from './summary.js';

const ROWS = Array.from({ length: 60 }, (_, index) => `${30.5 + ((index * 7) % 40)},${index % 2}`);
const CSV = ['age,num', ...ROWS].join('\n');

/** A place on the web that counts what it hands out. */
class Place {
  content = CSV;
  tag = '"1"';
  status = 200;
  gets = 0;
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      if (this.status !== 200) return void response.writeHead(this.status).end();
      const headers = { etag: this.tag, 'content-length': Buffer.byteLength(this.content), 'accept-ranges': 'bytes' };
      if (request.method === 'GET') this.gets += 1;
      response.writeHead(200, headers).end(request.method === 'HEAD' ? undefined : this.content);
    });
  }

  async open(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/ward-7/patients.csv?sig=SECRET`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

let folder: string;
let place: Place;
let url: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-remote-'));
  place = new Place();
  url = await place.open();
});
afterEach(async () => {
  await place.close();
  await rm(folder, { recursive: true });
});

function siteData(): SiteData {
  return new SiteData({ folder: join(folder, 'sources'), maxBytes: 1e6, environment: {}, clock: systemClock });
}

function summariesOn(data: SiteData, log: LogLine[], dataSets: Readonly<Record<string, DataSource>>) {
  const path = join(folder, 'data-sets.json');
  return new DataSetSummaries({ dataSets, path, summarize: summarizeInProcess, data, logger: recordingLogger(log) });
}

test('a remote data set is read once per version; out of reach it says so without its place, and heals', async () => {
  const log: LogLine[] = [];
  const data = siteData();
  const summaries = summariesOn(data, log, { patients: { path: url } });
  expect(await summaries.refresh()).toBe(true);
  expect(summaries.current).toMatchObject([{ name: 'patients', rowCount: 60, format: 'csv', problem: '' }]);
  const digest = summaries.digestOf('patients');
  expect(await summaries.refresh('patients')).toBe(false);
  expect(place.gets).toBe(1);

  place.status = 403;
  expect(await summaries.refresh()).toBe(true);
  expect(await summaries.refresh()).toBe(false);
  const [told] = summaries.current;
  expect(told?.problem).toMatch(/^\[data_unreadable\] its store denies access/);
  expect(JSON.stringify(summaries.current)).not.toMatch(/127\.0\.0\.1|ward-7|SECRET/);
  // The site's own log names the place, but no signature.
  const complaint = log.filter(({ level }) => level === 'error').map(({ message }) => message);
  expect(complaint.join()).toMatch(/127\.0\.0\.1.*ward-7/);
  expect(JSON.stringify(log)).not.toContain('SECRET');
  expect(await readFile(join(folder, 'data-sets.json'), 'utf8')).not.toMatch(/SECRET|127\.0/);

  place.status = 200;
  expect(await summaries.refresh()).toBe(true);
  expect(summaries.digestOf('patients')).toBe(digest);
  place.content = [CSV, ...ROWS].join('\n');
  place.tag = '"2"';
  expect(await summaries.refresh()).toBe(true);
  expect(summaries.current).toMatchObject([{ rowCount: 120 }]);
  expect(summaries.digestOf('patients')).not.toBe(digest);
  await summaries.stop();
  await data.stop();
  expect(await readdir(join(folder, 'sources'))).toEqual([]);
}, 180_000);

test('a store that does not answer keeps nobody waiting who asks for other data', async () => {
  const hanging = createServer(() => undefined);
  await new Promise<void>((resolve) => hanging.listen(0, '127.0.0.1', resolve));
  const data = siteData();
  try {
    await writeFile(join(folder, 'here.csv'), CSV);
    const remote = `http://127.0.0.1:${(hanging.address() as AddressInfo).port}/there.csv`;
    const summaries = summariesOn(data, [], { here: { path: join(folder, 'here.csv') }, there: { path: remote } });
    const all = summaries.refresh();
    await summaries.refresh('here');
    expect(summaries.digestOf('here')).toMatch(/^[0-9a-f]{64}$/);
    expect(() => summaries.digestOf('there')).toThrow(/still being read/);
    await summaries.stop();
    expect(await all).toBe(true);
  } finally {
    await data.stop();
    hanging.closeAllConnections();
    hanging.close();
  }
}, 180_000);

test('a task on remote data gets local files, which go back afterwards; failures name neither store nor copy', async () => {
  const data = siteData();
  const inner = new FakeTrainer();
  const trainer = new FetchingTrainer(inner, data);
  const task = { kind: 'describe', source: { path: url }, target: { column: 'num' } } as const;
  await trainer.run(task);
  const [given] = inner.tasks as { source: DataSource }[];
  const [copy = ''] = given?.source.files ?? [];
  expect(await readFile(copy, 'utf8')).toBe(CSV);
  expect(JSON.stringify(given)).not.toContain('SECRET');

  inner.failure = new OctomilError('data_mismatch', `${given?.source.path}: cut, copy ${copy}`, { details: { a: 1 } });
  await expect(trainer.run(task)).rejects.toMatchObject({
    code: 'data_mismatch',
    reason: expect.not.stringMatching(/127\.0|ward-7|sources/),
    details: { a: 1 },
  });
  place.status = 404;
  await expect(trainer.run(task)).rejects.toMatchObject({
    code: 'data_unreadable',
    reason: expect.not.stringMatching(/127\.0|ward-7|patients/),
  });
  expect(place.gets).toBe(1);
  await data.stop();
});

test('remote data count towards the bandwidth of the site', async () => {
  let takenBytes = 0;
  const take = async (bytes: number): Promise<void> => {
    takenBytes += bytes;
  };
  const bandwidth = { ...unlimited, limited: true, take };
  const folderOfCopies = join(folder, 'sources');
  const data = new SiteData({ folder: folderOfCopies, maxBytes: 1e6, environment: {}, clock: systemClock, bandwidth });
  const { release } = await data.acquire({ path: url });
  expect(takenBytes).toBe(Buffer.byteLength(CSV));
  await release();
  await data.stop();
});

test('what a killed agent left goes at the next start, also when nothing is remote any more', async () => {
  const left = join(folder, 'sources', 'copies-999999999-x');
  const { mkdirSync, writeFileSync, existsSync } = await import('node:fs');
  for (const dataSets of [{ patients: { path: url } }, { patients: { path: '/data/patients.csv' } }]) {
    mkdirSync(left, { recursive: true });
    writeFileSync(join(left, 'half.csv'), 'a');
    const data = siteData();
    await data.start(dataSets);
    expect(existsSync(left)).toBe(false);
    await data.stop();
  }
});

const spec = {
  columns: [
    { name: 'Age', kind: 'numeric', aliases: ['age_years'] },
    { name: 'cp', kind: 'category', levels: ['typical'] },
    { name: 'stay', kind: 'datetime', derive: [{ column: 'discharged' }] },
  ],
  target: { rule: { column: 'num' } },
};
const taskWith = (holdout: object, more: object = {}) =>
  ({
    kind: 'evaluate',
    featureSpec: spec,
    holdout,
    source: { path: 's3://b/x.parquet' },
    ...more,
  }) as unknown as Extract<TrainerTask, { kind: 'evaluate' }>;

test('columns that a task reads: all where rows are told apart by their whole content', () => {
  expect(columnsRead(taskWith({ salt: 's', shareRatio: 0.2 }))).toBeUndefined();
  const needed = columnsRead(taskWith({ salt: 's', shareRatio: 0.2, entityColumn: 'Patient ID' }));
  expect(needed).toEqual(expect.arrayContaining(['age', 'age_years', 'cp', 'discharged', 'num', 'patient_id']));
  expect(needed).not.toContain('typical');
  const code = { name: 'mine', data: 'path' };
  const own = { kind: 'train', trainer: 'own', code };
  expect(columnsRead(taskWith({ shareRatio: 0 }, own))).toBeUndefined();
  expect(columnsRead(taskWith({ shareRatio: 0 }, { featureSpec: 'garbage' }))).toEqual([]);
});

test.each(['missing_bucket', 'expired_credentials', 'something_new'])(
  'what leaves about "%s" is our own words',
  (problem) => {
    const error = new OctomilError('data_unreadable', 's3://bucket/ward/x.csv: AKIA', { details: { problem } });
    const told = outwardProblem(error);
    expect(told.reason).not.toMatch(/bucket\/|AKIA|ward/);
    expect(told.details).toBeUndefined();
    expect(told.cause).toBe(error);
  },
);

const remoteSettings = () => ({ data_sets: { patients: { path: url, delimiter: ',' } } });

test(
  'the doctor names the place of remote data, and leaves no copy behind',
  () =>
    onBench(async (bench: Bench) => {
      const checks = async () =>
        new Map((await runDoctor(bench.config(remoteSettings()))).map((check) => [check.check, check]));
      expect((await checks()).get('data patients')).toMatchObject({
        ok: true,
        detail: expect.stringMatching(/ward-7\/patients\.csv: csv, about 60 rows/),
      });
      place.status = 403;
      const ill = (await checks()).get('data patients');
      expect(ill).toMatchObject({ ok: false, detail: expect.stringContaining('ward-7/patients.csv') });
      expect(JSON.stringify(ill)).not.toContain('SECRET');
      expect(await readdir(join(bench.stateDir, 'sources'))).toEqual([]);
    }),
  180_000,
);

test(
  'a dry run works on remote data',
  () =>
    onBench(async (bench: Bench) => {
      const report = await dryRun(bench.config(remoteSettings()), {
        federation: 'heart',
        model: 'risk',
        target: 'num',
      });
      expect(report.siteSummary.dataSets).toMatchObject([{ name: 'patients', rowCount: 60 }]);
      expect(report.update.sampleCount).toBeGreaterThan(10);
      expect(JSON.stringify(report)).not.toMatch(/127\.0|ward-7|SECRET/);
      expect(place.gets).toBe(1);
    }),
  240_000,
);
