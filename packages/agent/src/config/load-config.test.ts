import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import type { OctomilError } from '@octomil/shared/errors';
import { redactedConfig } from './agent-config.js';
import { loadAgentConfig, parseAgentConfig } from './load-config.js';

const MINIMAL = { coordinator: 'grpcs://coordinator.example', device_identifier: 'hospital-001', state_dir: 'state' };
const parse = (raw: unknown, environment: Record<string, string> = {}) =>
  parseAgentConfig(raw, { folder: '/etc/octomil', environment });

function problems(raw: unknown, environment: Record<string, string> = {}): string[] {
  try {
    parse(raw, environment);
  } catch (error) {
    expect(error).toMatchObject({ code: 'config_invalid' });
    const { details } = error as OctomilError;
    const found = details?.['problems'] as { path: string; message: string }[];
    return found.map(({ path, message }) => `${path}: ${message}`);
  }
  return [];
}

test('reads a whole file, with paths relative to it, and freezes it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'octomil-config-'));
  try {
    writeFileSync(
      join(folder, 'policy.yaml'),
      'allow:\n  - {name: r, federations: [heart], models: ["*"], data_sets: [a]}\n',
    );
    writeFileSync(
      join(folder, 'agent.yaml'),
      [
        'coordinator: grpcs://coordinator.example:9443',
        'device_identifier: hospital-001',
        'enrollment_token: oet_secret',
        'state_dir: state',
        'data_sets:',
        '  a: a.csv',
        '  b: {path: /data/b.txt, format: csv, delimiter: ";", decimal_separator: ","}',
        '  c: {path: scans, images: {labels: who.csv, column: scan}}',
        'policy: policy.yaml',
        'metrics: {port: 9100}',
        'trainer: {idle_seconds: 60}',
      ].join('\n'),
    );
    const config = loadAgentConfig({ path: join(folder, 'agent.yaml'), environment: {} });
    expect(config).toMatchObject({
      coordinator: { host: 'coordinator.example', port: 9443, tls: true },
      stateDir: join(folder, 'state'),
      dataSets: {
        a: { path: join(folder, 'a.csv') },
        b: { path: '/data/b.txt', format: 'csv', delimiter: ';', decimalSeparator: ',' },
        c: { path: join(folder, 'scans'), images: { labels: 'who.csv', column: 'scan' } },
      },
      policy: { allow: [{ name: 'r', federations: ['heart'], models: ['*'], dataSets: ['a'] }] },
      metrics: { host: '127.0.0.1', port: 9100 },
      trainer: { idleMs: 60_000 },
      insecure: false,
    });
    expect(Object.isFrozen(config.dataSets['a'])).toBe(true);
    expect(JSON.stringify(redactedConfig(config))).not.toContain('oet_secret');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('every way to read a data set can be set, and files are relative as the path is', () => {
  const { dataSets } = parse({
    ...MINIMAL,
    data_sets: {
      a: {
        path: 'exports/',
        files: ['exports/1.csv.gz', '/data/2.csv.gz'],
        format: 'csv',
        header: false,
        columns: ['age', 'chol'],
        thousands_separator: '.',
        comment: '#',
        missing_texts: ['-'],
        units: { chol: 'mmol/L' },
        names: { chol: 'Serum cholesterol' },
        max_unpacked_mb: 2,
      },
      b: { path: 'b.jsonl', format: 'jsonl' },
    },
  });
  expect(dataSets['a']).toEqual({
    path: '/etc/octomil/exports',
    files: ['/etc/octomil/exports/1.csv.gz', '/data/2.csv.gz'],
    format: 'csv',
    header: false,
    columns: ['age', 'chol'],
    thousandsSeparator: '.',
    comment: '#',
    missingTexts: ['-'],
    units: { chol: 'mmol/L' },
    names: { chol: 'Serum cholesterol' },
    maxUnpackedBytes: 2_097_152,
  });
  expect(problems({ ...MINIMAL, data_sets: { a: { path: 'x.csv', thousands_separator: '_' } } })).toHaveLength(1);
});

test('the environment wins over the file', () => {
  const config = parse(MINIMAL, {
    OCTOMIL_COORDINATOR: 'https://other.example',
    OCTOMIL_METRICS_PORT: '0',
    OCTOMIL_STATE_DIR: '/var/lib/octomil',
    HTTPS_PROXY: 'http://proxy.example:3128',
    NO_PROXY: 'localhost, .internal.example',
  });
  expect(config).toMatchObject({
    coordinator: { host: 'other.example', port: 443, tls: true },
    metrics: { port: 0 },
    stateDir: '/var/lib/octomil',
    proxy: { url: 'http://proxy.example:3128', noProxy: ['localhost', '.internal.example'] },
  });
});

test('tells every problem at once, with its place and its value, but no secret', () => {
  const raw = {
    coordinator: 'grpc://coordinator.example',
    state_dir: '',
    enrollment_token: 7,
    data_sets: { a: { path: 'a.csv', delimiter: ';;', colour: 'red' } },
    policy: { allow: [{ name: 'r', federations: [], models: ['m'] }] },
    metrics: { port: 70_000 },
    log_level: 'loud',
    tls: { ca: 'missing.pem' },
    colour: 'blue',
  };
  expect(problems(raw).sort()).toEqual([
    expect.stringMatching(/^colour: is not a setting/),
    expect.stringMatching(/^coordinator: plaintext to coordinator.example/),
    expect.stringMatching(/^data_sets\.a\.colour: is not a setting/),
    expect.stringMatching(/^data_sets\.a\.delimiter: /),
    expect.stringMatching(/^device_identifier: is missing/),
    expect.stringMatching(/^enrollment_token: /),
    expect.stringMatching(/^log_level: must be one of "debug", "info"/),
    expect.stringMatching(/^metrics\.port: /),
    expect.stringMatching(/^policy\.allow\.0\.data_sets: is missing/),
    expect.stringMatching(/^policy\.allow\.0\.federations: /),
    expect.stringMatching(/^state_dir: /),
    expect.stringMatching(/^tls\.ca: the file cannot be read \(ENOENT\)/),
  ]);
  expect(() => parse({ ...raw, log_level: 'loud' })).toThrow(/log_level = "loud"/);
});

test('a missing file, a file that is not YAML and a list are problems, not crashes', () => {
  // Alone: what it lacks cannot be known.
  const nowhere = 'the configuration /nowhere/agent.yaml cannot be read (ENOENT)';
  expect(() => loadAgentConfig({ path: '/nowhere/agent.yaml', environment: {} })).toThrow(
    expect.objectContaining({ message: expect.stringMatching(/1 problem:/) }),
  );
  expect(() => loadAgentConfig({ path: '/nowhere/agent.yaml', environment: {} })).toThrow(nowhere);
  expect(problems([1])).toContain(': the configuration must be a mapping of settings, not a list');
  expect(problems('age,chol 63,233')).toContain(': the configuration must be a mapping of settings, not a string');
  expect(problems({ ...MINIMAL, policy: 'nowhere.yaml' })[0]).toContain('the policy file');
});

test('plaintext is refused off loopback unless asked for', () => {
  expect(problems({ ...MINIMAL, coordinator: 'grpc://10.0.0.7:8001' })[0]).toMatch(/insecure: true/);
  expect(parse({ ...MINIMAL, coordinator: 'grpc://10.0.0.7:8001', insecure: true }).coordinator.tls).toBe(false);
  expect(parse({ ...MINIMAL, coordinator: 'http://127.0.0.1:8001' }).coordinator.tls).toBe(false);
  expect(parse({ ...MINIMAL, coordinator: 'localhost:8001' }).coordinator).toEqual({
    host: 'localhost',
    port: 8001,
    tls: false,
  });
  expect(parse({ ...MINIMAL, coordinator: 'coordinator.example' }).coordinator).toEqual({
    host: 'coordinator.example',
    port: 8001,
    tls: true,
  });
  expect(problems({ ...MINIMAL, coordinator: 'ftp://coordinator.example' })[0]).toMatch(/is not a coordinator address/);
});

test('conditions and deployments are read, a single time window included; what is not one is named', () => {
  const { conditions, metered, deployableModels } = parse({
    ...MINIMAL,
    conditions: {
      training: { idle: true, time_window: '22:00-06:00', min_battery_percent: 40 },
      downloads: { unmetered: true, time_window: ['01:00-02:00', '12:30-13:00'], min_free_disk_mb: 500 },
      metered: true,
    },
    deployments: { models: ['heart-*'] },
  });
  expect(conditions).toEqual({
    training: { idle: true, timeWindows: [{ fromMinute: 1_320, toMinute: 360 }], minBatteryPercent: 40 },
    downloads: {
      unmetered: true,
      timeWindows: [
        { fromMinute: 60, toMinute: 120 },
        { fromMinute: 750, toMinute: 780 },
      ],
      minFreeDiskMb: 500,
    },
    activation: {},
  });
  expect([metered, deployableModels]).toEqual([true, ['heart-*']]);
  expect(parse(MINIMAL)).toMatchObject({
    conditions: { training: {}, downloads: {}, activation: {} },
    deployableModels: undefined,
  });
  expect(
    problems({
      ...MINIMAL,
      conditions: { training: { time_window: '25:00-06:00', min_battery_percent: 101 }, upload: {} },
    }),
  ).toEqual(
    expect.arrayContaining([
      'conditions.training.time_window.0: must be a window of local time, such as 22:00-06:00',
      expect.stringContaining('conditions.training.min_battery_percent: '),
      'conditions.upload: is not a setting',
    ]),
  );
});

test('data may lie anywhere: URLs stay as they are, and are shown without signatures', () => {
  const signed = 'https://account.blob.core.windows.net/data/a.csv?sv=2024&sig=SECRET';
  const config = parse({
    ...MINIMAL,
    data_sets: {
      a: 's3://bucket/ward 7/*.parquet',
      b: { path: 'both', files: ['gs://bucket/b.csv', signed, 'here.csv'], delimiter: ';' },
      c: 'file:///data/c%20d.csv',
      d: 'file:d.csv',
    },
    source_cache_mb: 100,
  });
  expect(config.dataSets).toEqual({
    a: { path: 's3://bucket/ward 7/*.parquet' },
    b: { path: '/etc/octomil/both', files: ['gs://bucket/b.csv', signed, '/etc/octomil/here.csv'], delimiter: ';' },
    c: { path: '/data/c d.csv' },
    d: { path: '/etc/octomil/d.csv' },
  });
  expect(config.sourceCacheBytes).toBe(100 * 1_048_576);
  const shown = JSON.stringify(redactedConfig(config));
  expect(shown).toContain('account.blob.core.windows.net');
  expect(shown).not.toContain('SECRET');
});

test('a bad URL is told with the other problems, and never quoted', () => {
  const found = problems({
    ...MINIMAL,
    data_sets: {
      a: 'ftp://host/a.csv?sig=SECRET',
      b: 'https://user:SECRET@host/b.csv',
      c: { path: 'x', files: ['c.csv', 's3://?sig=SECRET'] },
      d: { path: 'https://host/d.csv?sig=SECRET', delimiter: 'ab' },
      e: ['https://host/e.csv?sig=SECRET'],
    },
    policy: { allow: [], resources: { bandwidth_mbit: 0 } },
  });
  for (const place of ['a.path', 'b.path', 'c.files.1', 'd.delimiter', 'e']) {
    expect(found).toEqual(expect.arrayContaining([expect.stringMatching(new RegExp(`^data_sets\\.${place}`))]));
  }
  expect(found).toEqual(expect.arrayContaining([expect.stringMatching(/^policy\.resources\.bandwidth_mbit/)]));
  const whole = () => parse({ ...MINIMAL, data_sets: { e: ['https://host/e.csv?sig=SECRET'], a: 'ftp://h/SECRET' } });
  expect(whole).toThrow(expect.objectContaining({ message: expect.not.stringContaining('SECRET') }));
});

test('the bandwidth that a policy allows', () => {
  const policy = { allow: [], resources: { bandwidth_mbit: 2.5 } };
  expect(parse({ ...MINIMAL, policy }).policy.resources).toEqual({ bandwidthMbit: 2.5 });
});
