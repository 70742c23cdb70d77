import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { setPaused } from '../policy/paused.js';
import { type Bench, onBench } from '../testing/agent-under-test.js';
import { hasOpenssl, makeCertificates } from '../testing/certificates.js';
import { startConnectProxy } from '../testing/connect-proxy.js';
import { runDoctor } from './doctor.js';

const withOpenssl = hasOpenssl() ? test : test.skip;

async function examine(bench: Bench, settings: Record<string, unknown> = {}, now?: () => number) {
  const checks = await runDoctor(bench.config(settings), {
    summarize: async (sources) =>
      sources.map(({ path }) =>
        path.endsWith('broken.csv')
          ? { rowCount: 0, format: 'csv', digest: '', problem: 'a picture is empty', inFull: 'b.png is empty' }
          : { rowCount: 120, format: 'csv', digest: 'd', problem: '' },
      ),
    ...(now === undefined ? {} : { now }),
  });
  return new Map(checks.map((check) => [check.check, check]));
}

test('everything well: one line each', () =>
  onBench(async (bench) => {
    const checks = await examine(bench, { data_sets: { patients: 'patients.csv' } });
    expect([...checks.keys()]).toEqual([
      'proxy',
      'dns',
      'tcp',
      'tls',
      'clock',
      'state folder',
      'credential',
      'disk',
      'data patients',
      'policy',
    ]);
    expect([...checks.values()].filter(({ ok }) => !ok)).toEqual([]);
    expect(checks.get('clock')?.detail).toMatch(/within \d+ s/);
  }));

test('each trouble is found with what to do', () =>
  onBench(async (bench) => {
    mkdirSync(join(bench.stateDir, 'open'), { mode: 0o755 });
    await bench.coordinator.stop();
    const checks = await examine(bench, {
      state_dir: 'open',
      enrollment_token: undefined,
      data_sets: { broken: 'broken.csv' },
      policy: { allow: [{ name: 'r', federations: ['f'], models: ['m'], data_sets: ['other'] }] },
    });
    expect(checks.get('tcp')).toMatchObject({ ok: false, detail: expect.stringContaining('ECONNREFUSED') });
    expect(checks.get('state folder')).toMatchObject({ ok: false, hint: expect.stringContaining('chmod 700') });
    expect(checks.get('credential')).toMatchObject({ ok: false, hint: expect.stringContaining('octomil enroll') });
    expect(checks.get('data broken')).toMatchObject({ ok: false, detail: 'b.png is empty' });
    expect(checks.get('policy')).toMatchObject({ ok: false, hint: expect.stringContaining('broken') });
  }));

test('the port of REST is told from that for agents', () =>
  onBench(async (bench) => {
    const rest = createServer((_, response) => response.end('{}'));
    await new Promise<void>((resolve) => rest.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = rest.address() as AddressInfo;
      const checks = await examine(bench, { coordinator: `http://127.0.0.1:${port}` });
      expect(checks.get('grpc')).toMatchObject({ ok: false, hint: expect.stringContaining('Agents (gRPC)') });
    } finally {
      rest.close();
    }
  }));

test('a pause that somebody forgot is found', () =>
  onBench(async (bench) => {
    await setPaused(bench.config({}).stateDir, true);
    expect((await examine(bench)).get('policy')).toMatchObject({
      ok: false,
      detail: expect.stringContaining('paused'),
      hint: expect.stringContaining('octomil agent resume'),
    });
  }));

test('a clock that is wrong is told by how much', () =>
  onBench(async (bench) => {
    const checks = await examine(bench, {}, () => Date.now() + 600_000);
    expect(checks.get('clock')).toMatchObject({ ok: false, detail: expect.stringMatching(/(599|600|601) s ahead/) });
  }));

test('an unknown host and a proxy that refuses are told apart', async () => {
  const proxy = await startConnectProxy();
  try {
    await onBench(async (bench) => {
      const checks = await examine(bench, { proxy: proxy.url.replace('secret', 'wrong') });
      expect(checks.get('tcp')).toMatchObject({ ok: false, detail: expect.stringContaining('407') });
      expect((await examine(bench, { proxy: proxy.url })).get('tcp')?.ok).toBe(true);
      const unknown = await examine(bench, { coordinator: 'grpcs://no-such-host.invalid' });
      expect(unknown.get('dns')).toMatchObject({ ok: false });
    });
  } finally {
    await proxy.close();
  }
});

withOpenssl('TLS: an unknown authority, a certificate that ends soon, and a good one (needs openssl)', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'octomil-doctor-'));
  try {
    const certificates = makeCertificates(folder, 60);
    await onBench(async (bench) => {
      expect((await examine(bench)).get('tls')).toMatchObject({ ok: false, hint: expect.stringContaining('tls.ca') });
      const trusted = { tls: { ca: certificates.caPath } };
      expect((await examine(bench, trusted)).get('tls')).toMatchObject({ ok: true });
      const late = await examine(bench, trusted, () => Date.now() + 50 * 86_400_000);
      expect(late.get('tls')).toMatchObject({ ok: false, hint: expect.stringContaining('renew') });
    }, certificates);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test(
  'the data is read in a process of its own when nothing else is said',
  () =>
    onBench(async (bench) => {
      const rows = Array.from({ length: 37 }, (_, index) => `${index},${index % 2}`);
      writeFileSync(join(bench.stateDir, 'patients.csv'), ['age,num', ...rows].join('\n'));
      const checks = await runDoctor(bench.config({ data_sets: { patients: 'patients.csv', missing: 'missing.csv' } }));
      const found = new Map(checks.map((check) => [check.check, check]));
      expect(found.get('data patients')).toMatchObject({ ok: true, detail: expect.stringContaining('about 30 rows') });
      expect(found.get('data missing')).toMatchObject({ ok: false, detail: expect.stringContaining('missing.csv') });
    }),
  180_000,
);
