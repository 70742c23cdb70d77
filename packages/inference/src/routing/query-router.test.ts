import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { scoreComplexity } from './complexity.js';
import { decompose } from './decompose.js';
import { readQuery } from './messages.js';
import { DEFAULT_POLICY } from './policy.js';
import { QueryRouter } from './query-router.js';
import { assignTiers, type ModelInfo } from './tiers.js';

const models: readonly ModelInfo[] = [
  { name: 'smollm-360m', tier: 'fast', paramB: 0.36 },
  { name: 'phi-4-mini', tier: 'balanced', paramB: 3.8 },
  { name: 'llama-3.2-3b', tier: 'quality', paramB: 3 },
];
const ask = (content: string) => [{ role: 'user', content }];

test('the documented example goes to the quality tier, with its reasons and what to try next', () => {
  const decision = new QueryRouter(models, { thresholds: [0.3, 0.7] }).route(ask('Write a REST API in Python'));
  expect(decision).toMatchObject({
    modelName: 'llama-3.2-3b',
    tier: 'quality',
    strategy: 'complexity',
    fallbackChain: ['phi-4-mini', 'smollm-360m'],
  });
  expect(decision.complexityScore).toBeGreaterThanOrEqual(0.7);
  expect(decision.contributions[0]).toMatchObject({ feature: 'code' });
});

test('a greeting and a short question of fact go to the fast tier, a question without evidence to the balanced one', () => {
  const router = new QueryRouter(models);
  expect(router.route(ask('Good morning!')).modelName).toBe('smollm-360m');
  expect(router.route(ask('What is the capital of France?')).tier).toBe('fast');
  expect(router.route(ask('blue whales migrating')).tier).toBe('balanced');
});

test('the last question of the user counts, not what was said before', () => {
  const router = new QueryRouter(models);
  const conversation = [...ask('Implement Raft in Rust'), { role: 'assistant', content: '…' }, ...ask('thanks')];
  expect(router.route(conversation).tier).toBe('fast');
});

test('arithmetic is answered without a model, unless that is switched off', () => {
  const decided = new QueryRouter(models).route(ask('what is 2+2?'));
  expect(decided).toMatchObject({ tier: 'deterministic', modelName: '', fallbackChain: [] });
  expect(decided.deterministicResult).toEqual({ answer: '4', method: 'arithmetic', confidence: 1 });
  expect(new QueryRouter(models, { enableDeterministic: false }).route(ask('what is 2+2?')).modelName).not.toBe('');
  const policy = () => ({ ...DEFAULT_POLICY, deterministicEnabled: false });
  expect(new QueryRouter(models, { policy }).route(ask('what is 2+2?')).modelName).not.toBe('');
});

test('thresholds and the policy move the borders', () => {
  const query = ask('Explain how vaccines work.');
  expect(new QueryRouter(models, { thresholds: [0, 0.2] }).route(query).tier).toBe('quality');
  expect(new QueryRouter(models, { thresholds: [0.9, 0.95] }).route(query).tier).toBe('fast');
  const policy = () => ({ ...DEFAULT_POLICY, complexIndicators: ['Vaccine'] });
  const decided = new QueryRouter(models, { policy }).route(query);
  expect(decided.tier).toBe('quality');
  expect(decided.rules).toContain('the policy calls Vaccine complex');
});

test('without a model of the tier the next larger one is taken, else the nearest smaller, and the decision says so', () => {
  const [fast, , quality] = models;
  const router = new QueryRouter([fast, quality].filter((model) => model !== undefined));
  expect(router.route(ask('Explain how vaccines work.'))).toMatchObject({ modelName: 'llama-3.2-3b', tier: 'quality' });
  const only = new QueryRouter([{ name: 'tiny', tier: 'fast' }]);
  expect(only.route(ask('Write a REST API in Python')).modelName).toBe('tiny');
  expect(only.getFallback('tiny')).toBeUndefined();
});

test('the fallback is larger first, then of the same tier, then smaller', () => {
  const router = new QueryRouter([...models, { name: 'phi-again', tier: 'balanced', paramB: 4 }]);
  expect(router.getFallback('phi-4-mini')).toBe('llama-3.2-3b');
  expect(router.getFallback('llama-3.2-3b')).toBe('phi-4-mini');
  expect(router.getFallback('no-such-model')).toBeUndefined();
  expect(router.route(ask('Explain how vaccines work.')).fallbackChain).toEqual([
    'llama-3.2-3b',
    'phi-again',
    'smollm-360m',
  ]);
});

test('a fallback chain holds every other model once, whatever the models', () => {
  const tier = fc.constantFrom('fast' as const, 'balanced' as const, 'quality' as const);
  fc.assert(
    fc.property(fc.array(tier, { minLength: 1, maxLength: 8 }), fc.string(), (tiers, text) => {
      const listed = tiers.map((value, index): ModelInfo => ({ name: `m${index}`, tier: value }));
      const { modelName, fallbackChain } = new QueryRouter(listed, { enableDeterministic: false }).route(text);
      expect([modelName, ...fallbackChain].sort()).toEqual(listed.map(({ name }) => name).sort());
    }),
  );
});

test.each([
  [['a'], { a: 'balanced' }],
  [['a', 'b'], { a: 'fast', b: 'quality' }],
  [['a', 'b', 'c'], { a: 'fast', b: 'balanced', c: 'quality' }],
  [
    ['a', 'b', 'c', 'd', 'e', 'f', 'g'],
    { a: 'fast', b: 'fast', c: 'balanced', e: 'balanced', f: 'quality', g: 'quality' },
  ],
])('tiers of %j', (names, expected) => {
  const assigned = assignTiers(names);
  for (const [name, tier] of Object.entries(expected)) expect(assigned[name]?.tier).toBe(tier);
});

test('the documented query of two tasks is split; names and single tasks are not', () => {
  const decided = new QueryRouter(models).routeDecomposed(
    ask('Explain quantum computing and write a Python sort function'),
  );
  expect(decided).toMatchObject({
    tasks: [{ text: 'Explain quantum computing' }, { text: 'write a Python sort function' }],
    subDecisions: [{ tier: 'balanced' }, { tier: 'quality' }],
  });
  expect(decompose('Tell me about the history of rock and roll')).toHaveLength(1);
  expect(decompose('Write about salt and pepper')).toHaveLength(1);
  expect(new QueryRouter(models).routeDecomposed('hi')).not.toHaveProperty('tasks');
});

test('a task that needs an earlier answer says which', () => {
  expect(decompose('Summarize this report. Then translate the summary into German.')).toEqual([
    { text: 'Summarize this report.', dependsOn: undefined },
    { text: 'translate the summary into German.', dependsOn: 0 },
  ]);
  expect(decompose('1. List three risks\n2. Draft an email\n3. Compute the budget').map(({ text }) => text)).toEqual([
    'List three risks',
    'Draft an email',
    'Compute the budget',
  ]);
});

test('scores stay within 0 and 1, shares are never more than the score allows, and long texts are not read to their end', () => {
  fc.assert(
    fc.property(fc.lorem({ maxCount: 40 }), fc.integer({ min: 1, max: 50 }), (text, times) => {
      const { score, contributions } = scoreComplexity(readQuery(text.repeat(times)));
      expect(score).toBeGreaterThanOrEqual(0);
      expect(score).toBeLessThanOrEqual(1);
      for (const { strength, share } of contributions) {
        expect(strength).toBeLessThanOrEqual(1);
        expect(share).toBeLessThanOrEqual(1);
      }
    }),
  );
  const noise = 'lorem ipsum '.repeat(1_000);
  const hidden = scoreComplexity(readQuery(`${noise}prove the theorem by induction`));
  expect(hidden.contributions.map(({ feature }) => feature)).not.toContain('mathematics');
});

test('routers that make no sense are refused', () => {
  expect(() => new QueryRouter([])).toThrow(expect.objectContaining({ code: 'invalid_input' }));
  expect(() => new QueryRouter(models, { thresholds: [0.8, 0.2] })).toThrow(
    expect.objectContaining({ details: { field: 'thresholds' } }),
  );
  expect(() => assignTiers(['a', 'a'])).toThrow(expect.objectContaining({ details: { model: 'a' } }));
});
