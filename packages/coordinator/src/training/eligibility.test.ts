import { expect, test } from '@jest/globals';
import { type CandidateDevice, type Demand, judge } from './eligibility.js';

const demand: Demand = {
  federation: { id: 'f1', name: 'cardiology' },
  model: { id: 'm1', name: 'heart' },
  dataSet: '',
  trainer: 'tfjs',
  selector: {},
};
const dataSet = { name: 'patients', rowCount: 300, format: 'csv', digest: 'd', problem: '' };
const rule = { name: 'cardio', federations: ['cardio*'], models: ['heart'], dataSets: ['patients'] };
const device: CandidateDevice = {
  id: 'd1',
  name: 'hospital-1',
  labels: { region: 'north' },
  capabilities: { trainers: ['tfjs'] },
  site: { dataSets: [dataSet], policyRules: [rule] },
};

test('the only data set is meant where none is named', () => {
  expect(judge(device, demand)).toEqual({ verdict: 'eligible', dataSet });
});

test.each([
  ['selector', { selector: { region: 'south' } }, {}, /region is "north", not "south"/],
  ['trainer', { trainer: 'echo' as const }, {}, /no trainer "echo"/],
  [
    'ability',
    { abilities: ['personalization', 'datetime'] },
    {},
    /does not know personalization, datetime; update the agent/,
  ],
  [
    'ability',
    { abilities: ['personalization', 'datetime'] },
    { capabilities: { trainers: ['tfjs'], abilities: ['personalization'] } },
    /does not know datetime;/,
  ],
  ['data_set', { dataSet: 'scans' }, {}, /no data set "scans" \(it has "patients"\)/],
  [
    'data_set',
    {},
    { site: { dataSets: [{ ...dataSet, problem: 'no such file' }], policyRules: [rule] } },
    /no such file/,
  ],
  [
    'data_set',
    {},
    { site: { dataSets: [dataSet, { ...dataSet, name: 'b' }], policyRules: [rule] } },
    /name one with data_set/,
  ],
  ['policy', { model: { id: 'm2', name: 'kidney' } }, {}, /no rule .* model "kidney".*"cardio"/],
  ['policy', { federation: { id: 'f2', name: 'oncology' } }, {}, /federation "oncology"/],
  ['policy', {}, { site: { dataSets: [dataSet], policyRules: [] } }, /it has no rules/],
  ['paused', {}, { site: { dataSets: [dataSet], policyRules: [rule], paused: true } }, /octomil agent resume/],
])('%s refuses %j', (refusedBy, asked, having, reason) => {
  expect(judge({ ...device, ...having }, { ...demand, ...asked })).toEqual({
    verdict: 'refused',
    rule: refusedBy,
    reason: expect.stringMatching(reason),
  });
});

test('nothing is known of a device that never connected', () => {
  expect(judge({ ...device, site: {} }, demand)).toEqual({ verdict: 'unknown' });
});

test('an agent that does not say whether it is paused is asked', () => {
  for (const site of [device.site as object, { ...(device.site as object), paused: false }]) {
    expect(judge({ ...device, site }, demand)).toMatchObject({ verdict: 'eligible' });
  }
});

test('echo needs a rule, but no data', () => {
  const bare = { ...device, capabilities: {}, site: { dataSets: [], policyRules: [{ ...rule, dataSets: [] }] } };
  expect(judge(bare, { ...demand, trainer: 'echo' })).toEqual({ verdict: 'eligible', dataSet: undefined });
});
