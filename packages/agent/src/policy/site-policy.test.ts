import { expect, test } from '@jest/globals';
import { parseAgentConfig } from '../config/load-config.js';
import { decide, isCodeAllowed, type PolicyQuestion, ruleForModel } from './policy.js';
import { allowedStatistics, columnsOfTask } from './task-columns.js';

const rule = { name: 'heart', federations: ['heart'], models: ['risk'], data_sets: ['patients'] };
const asked: PolicyQuestion = { federation: 'heart', model: 'risk', dataSet: 'patients' };
const at = (hours: number): number => new Date(2026, 2, 1, hours).getTime();

function configWith(policy: Record<string, unknown>, more: Record<string, unknown> = {}) {
  const file = { coordinator: 'grpc://127.0.0.1:1', device_identifier: 'd', state_dir: 's', policy, ...more };
  return parseAgentConfig(file, { folder: '/site', environment: {} });
}

function refusal(policy: Record<string, unknown>, question: Partial<PolicyQuestion> = {}) {
  const decision = decide(configWith(policy).policy, { ...asked, ...question });
  return decision.allowed
    ? undefined
    : { missing: decision.problem.details?.['missing'], reason: decision.problem.reason };
}

test('columns: a spec that needs others is refused by their names, however they are spelled', () => {
  const policy = { allow: [{ ...rule, columns: ['Age', 'lab_*', 'num'] }] };
  expect(refusal(policy, { columns: ['age', 'lab chol', 'NUM'] })).toBeUndefined();
  expect(refusal(policy, { columns: ['age', 'name'] })).toMatchObject({
    missing: 'columns',
    reason: expect.stringMatching(/"name"/),
  });
  expect(decide(configWith(policy).policy, asked)).toMatchObject({ allowed: true, columns: ['Age', 'lab_*', 'num'] });
});

test('hours, also over midnight, and another rule without them', () => {
  const night = { ...rule, hours: '22:00-06:00' };
  expect(refusal({ allow: [night] }, { nowMs: at(23) })).toBeUndefined();
  expect(refusal({ allow: [night] }, { nowMs: at(12) })).toMatchObject({
    missing: 'hours',
    reason: expect.stringMatching(/22:00-06:00/),
  });
  const decision = decide(configWith({ allow: [night, { ...rule, name: 'day' }] }).policy, { ...asked, nowMs: at(12) });
  expect(decision).toMatchObject({ allowed: true, rule: 'day' });
});

test.each(['secure_aggregation', 'noise'])('a rule that demands %s refuses and says why', (min_privacy) => {
  const policy = { allow: [{ ...rule, min_privacy }] };
  expect(refusal(policy)).toMatchObject({
    missing: 'min_privacy',
    reason: expect.stringMatching(/this version cannot give/),
  });
  expect(ruleForModel(configWith(policy).policy, 'risk', ['patients'])).toBeUndefined();
  expect(refusal({ allow: [{ ...rule, min_privacy: 'none' }] })).toBeUndefined();
});

test('a paused site refuses everything', () => {
  expect(refusal({ allow: [rule], paused: true })).toMatchObject({ missing: 'paused' });
  expect(ruleForModel(configWith({ allow: [rule], paused: true }).policy, 'risk', ['patients'])).toBeUndefined();
});

test('what an assignment reads is known from its words, and statistics lose what is not allowed', () => {
  const featureSpec = { columns: [{ name: 'age' }, { name: 'chol' }], target: { rule: { column: 'num' } } };
  expect(columnsOfTask('train', { featureSpec, holdout: { entityColumn: 'patient' } })).toEqual([
    'age',
    'chol',
    'num',
    'patient',
  ]);
  expect(columnsOfTask('describe', { target: 'num>0' })).toEqual(['num']);
  // A column that is not allowed must not come in by another's alias, nor by a date that is measured from it.
  const dates = {
    columns: [
      { name: 'age', aliases: ['hiv'] },
      { name: 'seen', from: { column: 'dob' } },
    ],
  };
  expect(columnsOfTask('train', { featureSpec: dates })).toEqual(['age', 'hiv', 'seen', 'dob']);
  const hints = { seen: { kind: 'datetime', reference: { column: 'dob' } } };
  expect(columnsOfTask('describe', { target: 'num>0', hints })).toEqual(['num', 'dob']);
  const json = JSON.stringify({ rows: 20, columns: [{ name: 'age' }, { name: 'zip' }], excluded: [{ name: 'ssn' }] });
  expect(JSON.parse(allowedStatistics(json, ['age', 'num']))).toEqual({
    rows: 20,
    columns: [{ name: 'age' }],
    excluded: [],
  });
  expect(allowedStatistics(json, undefined)).toBe(json);
});

test('trainers of the site: resources bound them, digests allow them', () => {
  const config = configWith(
    {
      allow: [rule],
      resources: { memory_mb: 512, cpu_percent: 50 },
      code: { allow: [{ trainer: 'mine', sha256: 'a'.repeat(64) }] },
    },
    {
      trainers: { mine: { command: ['python3', 'train.py'], timeout_seconds: 60 } },
      trainer: { memory_limit_mb: 900 },
    },
  );
  expect(config.trainers['mine']).toMatchObject({
    root: '/site',
    wholeFolder: false,
    data: 'parquet',
    limits: { timeoutMs: 60_000, memoryMb: 512, cpuPercent: 50 },
  });
  expect(config.trainer.memoryLimitMb).toBe(512);
  expect(isCodeAllowed(config.policy, 'mine', 'a'.repeat(64))).toBe(true);
  expect(isCodeAllowed(config.policy, 'other', 'a'.repeat(64))).toBe(false);
  expect(isCodeAllowed({ allow: [] }, 'mine', 'a'.repeat(64))).toBe(false);
});

test.each([
  [{ 'Not a name': { command: ['x'] } }, /trainers.Not a name/],
  [{ echo: { command: ['x'] } }, /not "echo"/],
  [{ mine: {} }, /either a command or a module/],
  [{ mine: { command: ['x'], module: 'y' } }, /either a command or a module/],
  [{ mine: { module: 'y', data: 'path' } }, /leave data out/],
  [{ mine: { command: 'python3 train.py' } }, /trainers.mine.command/],
])('trainers %j are refused', (trainers, message) => {
  expect(() => configWith({ allow: [rule] }, { trainers })).toThrow(message);
});
