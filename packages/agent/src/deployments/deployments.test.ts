import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { type DesiredInit, onDeploymentBench } from '../testing/deployment-bench.js';

test('a version is fetched, tried and activated; the next keeps it; the way back fetches and tries nothing', () =>
  onDeploymentBench(async (bench) => {
    bench.desire(bench.version('1'));
    await bench.until(() => bench.observed()?.state === 'active');
    expect(bench.states).toEqual(['v-1 pending', 'v-1 downloading', 'v-1 active'].slice(3 - bench.states.length));
    expect(bench.trainer.tasks).toEqual([
      {
        kind: 'predict',
        documentPath: join(bench.folder, 'm1', 'v-1', 'model.json'),
        weightsPath: join(bench.folder, 'm1', 'v-1', 'weights.safetensors'),
      },
    ]);
    const { active, ...rest } = await bench.pointer();
    expect(rest).toEqual({ formatVersion: 1, modelId: 'm1', modelName: 'risk', previous: null });
    expect(active).toMatchObject({ versionId: 'v-1', version: '1', rolloutId: 1 });
    const [, weights] = active.artifacts;
    expect(weights).toMatchObject({ format: 'safetensors', path: 'v-1/weights.safetensors' });
    expect(await readFile(join(bench.folder, 'm1', weights?.path ?? ''), 'utf8')).toBe('weights of 1');

    bench.desire(bench.version('2', { rolloutId: 2n }));
    await bench.until(() => bench.observed()?.activeVersionId === 'v-2');
    expect(bench.observed()).toMatchObject({ previousVersionId: 'v-1', rolloutId: 2n });

    const fetched = bench.fetched.length;
    bench.desire(bench.version('1', { rolloutId: 1n }));
    await bench.until(() => bench.observed()?.activeVersionId === 'v-1');
    expect(bench.observed()).toMatchObject({ state: 'active', previousVersionId: 'v-2', rolloutId: 1n });
    expect(bench.fetched.length).toBe(fetched);
    expect(bench.trainer.tasks).toHaveLength(2);
    expect(bench.audit.filter(({ kind }) => kind === 'deployment').length).toBeGreaterThan(3);
  }));

test('what is neither active nor previous nor wanted is removed, with its file in the cache; then the model with all', () =>
  onDeploymentBench(async (bench) => {
    for (const name of ['1', '2', '3']) {
      bench.desire(bench.version(name));
      await bench.until(() => bench.observed()?.activeVersionId === `v-${name}`);
    }
    await bench.settle();
    expect((await readdir(join(bench.folder, 'm1'))).filter((name) => name.startsWith('v-'))).toEqual(['v-2', 'v-3']);
    const [, weights] = bench.version('1').artifacts ?? [];
    // model.json is the same file in all three.
    expect(bench.dropped).toEqual([weights?.sha256]);
    bench.desire();
    await bench.until(() => bench.observed()?.state === 'removed');
    await bench.settle();
    expect(await readdir(bench.folder)).not.toContain('m1');
    bench.connect();
    await bench.until(() => bench.reports.at(-1)?.length === 0);
  }));

test('a version that is not one of our own models is active by its digests alone', () =>
  onDeploymentBench(async (bench) => {
    bench.desire(bench.version('1', { artifacts: [bench.file('model.onnx', 'onnx', 'graph')] }));
    await bench.until(() => bench.observed()?.state === 'active');
    expect(bench.trainer.tasks).toEqual([]);
    expect(bench.evaluated).toEqual([]);
  }));

test('a format that a version gains later joins its folder while it runs', () =>
  onDeploymentBench(async (bench) => {
    const version = bench.version('1');
    bench.desire(version);
    await bench.until(() => bench.observed()?.state === 'active');
    bench.desire({
      ...version,
      artifacts: [...(version.artifacts ?? []), bench.file('model.onnx', 'onnx', 'graph')],
    } as DesiredInit);
    await bench.until(() => bench.fetched.length === 5);
    await bench.until(() => bench.observed()?.state === 'active');
    await bench.settle();
    expect((await bench.pointer()).active.artifacts).toHaveLength(3);
    expect((await bench.pointer()).previous).toBeNull();
    expect((await readdir(join(bench.folder, 'm1', 'v-1'))).sort()).toEqual([
      '.version.json',
      'model.json',
      'model.onnx',
      'weights.safetensors',
    ]);
  }));

test('a failed smoke prediction keeps the old version; it is tried again later and later, and another version at once', () =>
  onDeploymentBench(async (bench) => {
    bench.desire(bench.version('1'));
    await bench.until(() => bench.observed()?.state === 'active');
    const fetched = bench.fetched.length;
    bench.trainer.failure = new OctomilError('inference_failed', `${bench.folder}: the model answered NaN to a row`);
    bench.desire(bench.version('2'));
    await bench.until(() => bench.observed()?.state === 'failed');
    expect(bench.observed()).toMatchObject({
      versionId: 'v-2',
      activeVersionId: 'v-1',
      problem: { code: 'activation_failed', message: expect.stringContaining('answered NaN') },
    });
    // Folders of the machine stay there.
    expect(bench.observed()?.problem?.message).not.toContain(bench.folder);
    expect((await bench.pointer()).active.versionId).toBe('v-1');
    const tried = (): number => bench.trainer.tasks.length;
    expect(tried()).toBe(2);
    await bench.settle();
    expect(tried()).toBe(2);
    bench.clock.advance(5_000);
    await bench.until(() => tried() === 3);
    await bench.settle();
    bench.clock.advance(5_000);
    await bench.settle();
    expect(tried()).toBe(3);
    bench.clock.advance(5_000);
    await bench.until(() => tried() === 4);
    // Its files were there: only the trial is repeated.
    expect(bench.fetched.length).toBe(fetched + 2);
    expect(bench.states.filter((state) => state === 'v-2 failed')).toHaveLength(1);
    bench.trainer.failure = undefined;
    bench.desire(bench.version('3'));
    await bench.until(() => bench.observed()?.activeVersionId === 'v-3');
  }));

test('a full disk fails the activation, before a byte comes or half-way; with room it goes on by itself', () =>
  onDeploymentBench(async (bench) => {
    bench.desire(bench.version('1'));
    await bench.until(() => bench.observed()?.state === 'active');
    const fetched = bench.fetched.length;
    bench.conditions.freeBytes = 1_048_576;
    bench.desire(bench.version('2'));
    await bench.until(() => bench.observed()?.state === 'failed');
    expect(bench.observed()).toMatchObject({ activeVersionId: 'v-1', problem: { code: 'insufficient_storage' } });
    expect(bench.fetched.length).toBe(fetched);
    bench.conditions.freeBytes = 100_000_000;
    let full = true;
    bench.onFetch = async () => {
      if (full) throw new OctomilError('insufficient_storage', 'ENOSPC: no space left on device');
    };
    bench.clock.advance(5_000);
    await bench.until(() => bench.fetched.length > fetched);
    await bench.settle();
    expect(bench.observed()?.state).toBe('failed');
    full = false;
    bench.clock.advance(10_000);
    await bench.until(() => bench.observed()?.activeVersionId === 'v-2');
    expect(bench.observed()).toMatchObject({ state: 'active' });
    expect(bench.observed()?.problem).toBeUndefined();
  }));

test('cut downloads are no failure until the third in a row, and none at all without a session', () =>
  onDeploymentBench(async (bench) => {
    let cut = true;
    bench.onFetch = async () => {
      if (cut) throw new OctomilError('download_failed', 'the connection was reset');
    };
    bench.deployments.disconnected();
    bench.desire(bench.version('1'));
    await bench.until(() => bench.fetched.length === 1);
    bench.clock.advance(3_600_000);
    await bench.settle();
    expect(bench.fetched.length).toBe(1);
    bench.connect();
    await bench.until(() => bench.fetched.length === 2);
    await bench.settle();
    bench.clock.advance(5_000);
    await bench.until(() => bench.fetched.length === 3);
    await bench.settle();
    expect(bench.observed()?.state).toBe('downloading');
    bench.clock.advance(10_000);
    await bench.until(() => bench.observed()?.state === 'failed');
    expect(bench.observed()).toMatchObject({ problem: { code: 'download_failed' } });
    cut = false;
    bench.clock.advance(20_000);
    await bench.until(() => bench.observed()?.state === 'active');
  }));

test('downloads wait for their conditions, stop when these lapse, and go on', () =>
  onDeploymentBench(
    async (bench) => {
      bench.conditions.facts = { batteryPercent: 20 };
      bench.desire(bench.version('1'));
      await bench.until(() => bench.observed()?.state === 'waiting');
      expect(bench.observed()?.problem).toMatchObject({
        code: 'conditions_not_met',
        message: expect.stringContaining('the battery has 20 %, 50 % are needed'),
      });
      expect(JSON.parse(bench.observed()?.problem?.detailsJson ?? '')).toMatchObject({
        rule: 'min_battery_percent',
        value: 20,
        limit: 50,
      });
      expect(bench.fetched).toEqual([]);
      let ended = 0;
      bench.onFetch = (_, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            ended += 1;
            reject(signal.reason);
          });
        });
      bench.conditions.facts = { batteryPercent: 60 };
      bench.clock.advance(10_000);
      await bench.until(() => bench.fetched.length === 1 && bench.observed()?.state === 'downloading');
      bench.conditions.facts = { batteryPercent: 49 };
      bench.clock.advance(10_000);
      await bench.until(() => ended === 1 && bench.observed()?.state === 'waiting');
      bench.onFetch = async () => undefined;
      bench.conditions.facts = {};
      bench.clock.advance(10_000);
      await bench.until(() => bench.observed()?.state === 'active');
      expect(bench.observed()?.problem).toBeUndefined();
    },
    { downloads: { minBatteryPercent: 50 } },
  ));

test('activation waits for an idle machine where the rollout asks for one; the way back does not', () =>
  onDeploymentBench(async (bench) => {
    bench.desire(bench.version('1'));
    await bench.until(() => bench.observed()?.state === 'active');
    bench.busy = 1;
    bench.desire(bench.version('2', { activation: 'when_idle' }));
    await bench.until(() => bench.observed()?.state === 'waiting');
    expect(bench.observed()?.problem?.message).toContain('1 running assignment');
    expect(bench.observed()).toMatchObject({ activeVersionId: 'v-1' });
    bench.busy = 0;
    bench.conditions.facts = { loadPerCpu: 0.9 };
    bench.clock.advance(10_000);
    await bench.settle();
    expect(bench.observed()).toMatchObject({ state: 'waiting', activeVersionId: 'v-1' });
    bench.conditions.facts = { loadPerCpu: 0.1 };
    bench.clock.advance(10_000);
    await bench.until(() => bench.observed()?.activeVersionId === 'v-2');
    bench.busy = 1;
    bench.desire(bench.version('1', { activation: 'when_idle' }));
    await bench.until(() => bench.observed()?.activeVersionId === 'v-1');
  }));

test('activation by hand waits until somebody at the site lets it go', () =>
  onDeploymentBench(async (bench) => {
    bench.desire(bench.version('1', { activation: 'manual' }));
    await bench.until(() => bench.observed()?.state === 'waiting');
    bench.clock.advance(3_600_000);
    await bench.settle();
    expect(bench.observed()).toMatchObject({ state: 'waiting', activeVersionId: '' });
    expect(() => bench.deployments.activate('other')).toThrow('not_found');
    bench.deployments.activate('m1');
    await bench.until(() => bench.observed()?.state === 'active');
  }));

test('a model that the site does not name is refused and not tried again; what it names is deployed', () =>
  onDeploymentBench(
    async (bench) => {
      bench.desire(bench.version('1'), bench.version('1', { modelId: 'm2', modelName: 'heart-risk' }));
      await bench.until(() => bench.observed('m1')?.state === 'failed' && bench.observed('m2')?.state === 'active');
      expect(bench.observed()?.problem).toMatchObject({ code: 'policy_denied' });
      const fetched = bench.fetched.length;
      bench.clock.advance(3_600_000);
      await bench.settle();
      expect(bench.fetched.length).toBe(fetched);
    },
    {},
    ['heart-*'],
  ));

test('ids and file names that would leave the folder are refused as failed; what runs goes on', () =>
  onDeploymentBench(async (bench) => {
    bench.desire(bench.version('1'));
    await bench.until(() => bench.observed()?.state === 'active');
    for (const fileName of ['../evil', '/etc/passwd', 'a\\b', '.version.json', '', 'x'.repeat(300)]) {
      bench.desire(bench.version('2', { artifacts: [{ ...bench.file('x', 'onnx', 'x'), fileName }] }));
      await bench.until(() => bench.observed()?.state === 'failed');
      expect(bench.observed()).toMatchObject({ activeVersionId: 'v-1', problem: { code: 'invalid_input' } });
      bench.desire(bench.version('1'));
      await bench.until(() => bench.observed()?.state === 'active');
    }
    bench.desire(bench.version('1'), bench.version('1', { modelId: '../m3' }));
    await bench.until(() => bench.observed('../m3')?.state === 'failed');
    expect(await readdir(join(bench.folder, '..'))).not.toContain('m3');
  }));

test('after a restart: the active version at once, figures kept, half-made versions gone, damaged ones fetched again', () =>
  onDeploymentBench(async (bench) => {
    bench.evaluation = { evaluation: { count: 24, loss: 0.5, accuracy: 0.75, auc: null } as never, baseline: null };
    bench.desire(bench.version('1'));
    await bench.until(() => bench.evaluated.length === 1);
    bench.deployments.record({ modelId: 'm1', versionId: 'v-1', latencyMs: 8, failed: false });
    let wait = Promise.withResolvers<void>();
    bench.onFetch = () => wait.promise;
    bench.desire(bench.version('2'));
    await bench.until(() => bench.fetched.length === 3);
    expect(await readdir(join(bench.folder, 'm1'))).toContain('v-2.tmp');
    wait.resolve();
    wait = Promise.withResolvers();
    const stopping = bench.restart();
    wait.resolve();
    await stopping;
    await bench.until(() => bench.observed()?.state === 'active');
    expect(JSON.parse(bench.observed()?.healthJson ?? '')).toMatchObject({
      inferences: 1,
      evaluation: { count: 24, accuracy: 0.75 },
    });
    bench.desire(bench.version('1'));
    await bench.settle();
    expect((await readdir(join(bench.folder, 'm1'))).sort()).toEqual(['active.json', 'health.json', 'v-1']);
    expect(bench.dropped).toHaveLength(1);

    await rm(join(bench.folder, 'm1', 'v-1', 'weights.safetensors'));
    const fetched = bench.fetched.length;
    await bench.restart();
    bench.desire(bench.version('1'));
    await bench.until(() => bench.fetched.length > fetched && bench.observed()?.state === 'active');
    await writeFile(join(bench.folder, 'm1', 'active.json'), '{"formatVersion":1,');
    await bench.restart();
    bench.desire(bench.version('1'));
    await bench.until(() => bench.observed()?.activeVersionId === 'v-1');
  }));

test('what runs is said in full after each Welcome, and again until there is a receipt; nothing leaves that is not written down', () =>
  onDeploymentBench(async (bench) => {
    await bench.until(() => bench.reports.length === 1);
    expect(bench.reports).toEqual([[]]);
    bench.holdReceipts = true;
    bench.desire(bench.version('1'));
    await bench.until(() => bench.reports.length === 2);
    await bench.settle();
    // The rest waits for the receipt …
    expect(bench.reports).toHaveLength(2);
    // … or for the next session.
    bench.deployments.disconnected();
    bench.holdReceipts = false;
    bench.connect();
    await bench.until(() => bench.observed()?.state === 'active');
    await bench.settle();
    const before = bench.reports.length;
    bench.clock.advance(600_000);
    await bench.settle();
    expect(bench.reports).toHaveLength(before);

    bench.auditFailure = new OctomilError('insufficient_storage', 'the audit log cannot be written');
    bench.desire(bench.version('2'));
    await bench.settle();
    expect(bench.reports).toHaveLength(before);
    bench.auditFailure = undefined;
    bench.clock.advance(30_000);
    await bench.until(() => bench.observed()?.activeVersionId === 'v-2');

    // That a full disk failed it is told all the same, in the coordinator's own words.
    bench.auditFailure = new OctomilError('insufficient_storage', 'the audit log cannot be written');
    bench.conditions.freeBytes = 0;
    bench.desire(bench.version('3'));
    await bench.until(() => bench.observed()?.state === 'failed');
    expect(bench.observed()).toMatchObject({
      versionId: 'v-3',
      activeVersionId: 'v-2',
      healthJson: '',
      problem: { code: 'insufficient_storage', message: 'the audit log cannot be written', detailsJson: '' },
    });
    await bench.settle();
    const told = bench.reports.length;
    bench.clock.advance(30_000);
    await bench.settle();
    expect(bench.reports).toHaveLength(told);
    bench.auditFailure = undefined;
    bench.clock.advance(30_000);
    await bench.until(() => bench.observed()?.problem?.message.includes('make room') === true);
  }));

test('answers are counted for the active version alone, and told every few seconds under one audit entry', () =>
  onDeploymentBench(async (bench) => {
    bench.desire(bench.version('1'));
    await bench.until(() => bench.observed()?.state === 'active');
    await bench.settle();
    const before = bench.reports.length;
    const report = (latencyMs: number, failed = false, versionId = 'v-1'): boolean =>
      bench.deployments.record({ modelId: 'm1', versionId, latencyMs, failed });
    for (let index = 0; index < 99; index++) expect(report(10)).toBe(true);
    report(1_000, true);
    expect(report(10, false, 'v-0')).toBe(false);
    await bench.settle();
    expect(bench.reports).toHaveLength(before);
    bench.clock.advance(5_000);
    await bench.until(() => bench.reports.length === before + 1);
    const health = JSON.parse(bench.observed()?.healthJson ?? '') as { latencyMs: { mean: number; p95: number } };
    expect(health).toMatchObject({ inferences: 100, inferenceErrors: 1 });
    expect(health.latencyMs.mean).toBeCloseTo(10);
    expect(health.latencyMs.p95).toBeGreaterThanOrEqual(10);
    expect(health.latencyMs.p95).toBeLessThan(11.1);
    report(10);
    bench.clock.advance(5_000);
    await bench.until(() => bench.reports.length === before + 2);
    expect(bench.audit.filter(({ kind }) => kind === 'inference_counters')).toHaveLength(1);
  }));

test('the new version is compared with the one before it on the same rows, once', () =>
  onDeploymentBench(async (bench) => {
    for (const name of ['1', '2']) {
      bench.desire(bench.version(name));
      await bench.until(() => bench.observed()?.activeVersionId === `v-${name}`);
      await bench.settle();
    }
    bench.desire(bench.version('2', { rolloutId: 9n }));
    await bench.until(() => bench.observed()?.rolloutId === 9n && bench.observed()?.state === 'active');
    await bench.settle();
    expect(bench.evaluated).toEqual([
      ['v-1', ''],
      ['v-2', 'v-1'],
    ]);
    expect((await bench.pointer()).active.rolloutId).toBe(9);
  }));
