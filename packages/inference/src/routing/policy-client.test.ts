import { expect, test } from '@jest/globals';
import { DEFAULT_POLICY, parseRoutingPolicy } from './policy.js';
import { RoutingPolicyClient } from './policy-client.js';

interface Asked {
  readonly etag: string | null;
}

function client(answers: readonly (() => Response)[]) {
  const asked: Asked[] = [];
  const clock = { nowMs: 0, now: () => clock.nowMs };
  const policies = new RoutingPolicyClient({
    url: 'http://coordinator.test/api/v1/route/policy',
    clock,
    fetch: async (_url, init) => {
      asked.push({ etag: new Headers(init?.headers).get('if-none-match') });
      const answer = answers[Math.min(asked.length, answers.length) - 1];
      if (answer === undefined) throw new TypeError('no answer');
      return answer();
    },
  });
  return { policies, asked, clock };
}

const policy = (version: number, headers: Record<string, string>) => (): Response =>
  Response.json({ version, fast_threshold: 0.2, quality_threshold: 0.8 }, { headers });

test('a policy is kept while it is fresh and asked for again with its ETag', async () => {
  const { policies, asked, clock } = client([
    policy(3, { etag: '"3"', 'cache-control': 'max-age=60' }),
    () => new Response(null, { status: 304, headers: { 'cache-control': 'max-age=60' } }),
  ]);
  expect(await policies.current()).toMatchObject({ version: 3, fastThreshold: 0.2 });
  clock.nowMs = 59_000;
  await policies.current();
  expect(asked).toHaveLength(1);
  clock.nowMs = 61_000;
  expect(await policies.current()).toMatchObject({ version: 3 });
  expect(asked).toEqual([{ etag: null }, { etag: '"3"' }]);
});

test('a coordinator that is down or answers nonsense leaves the last policy, else the default, and is not asked at once again', async () => {
  const { policies, asked, clock } = client([
    () => Response.json({ fast_threshold: 7 }),
    policy(1, {}),
    () => new Response('busy', { status: 503 }),
  ]);
  expect(await policies.current()).toBe(DEFAULT_POLICY);
  expect(policies.problem).toMatchObject({ code: 'invalid_input' });
  await policies.current();
  expect(asked).toHaveLength(1);
  clock.nowMs = 31_000;
  expect(await policies.current()).toMatchObject({ version: 1 });
  clock.nowMs = 31_000 + 3_601_000;
  expect(await policies.current()).toMatchObject({ version: 1 });
});

test('questions at the same time ask once', async () => {
  const { policies, asked } = client([policy(1, {})]);
  await Promise.all([policies.current(), policies.current(), policies.current()]);
  expect(asked).toHaveLength(1);
});

test.each([
  [{ fast_threshold: 0.9, quality_threshold: 0.2 }, 'fast_threshold'],
  [{ quality_threshold: 'high' }, 'quality_threshold'],
  [{ complex_indicators: [1] }, 'complex_indicators'],
  ['no', 'policy'],
])('%j is refused for its %s', (value, field) => {
  expect(() => parseRoutingPolicy(value)).toThrow(
    expect.objectContaining({ code: 'invalid_input', details: { field } }),
  );
});
