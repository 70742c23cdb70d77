import { expect, test } from '@jest/globals';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { explainProblems } from './schema-problems.js';

const Nullable = Type.Union([Type.Array(Type.String()), Type.Null()]);
const Body = Type.Object({
  status: Type.Optional(Type.Union(['draft', 'active', 'paused'].map((state) => Type.Literal(state)))),
  names: Type.Optional(Nullable),
  limit: Type.Optional(Type.Integer({ minimum: 1 })),
  inner: Type.Optional(Type.Object({ id: Type.String() })),
});

test.each([
  [{ status: 'bogus' }, 'status', 'status must be "draft", "active" or "paused"'],
  [{ names: 'x' }, 'names', 'names must be array or null'],
  [{ limit: 0 }, 'limit', 'limit must be >= 1'],
  [{ inner: {} }, 'inner.id', 'inner.id is missing'],
  [{ limit: 'x', names: 5 }, 'names', 'names must be array or null; limit must be integer'],
  [7, '', 'must be object'],
])('%j is explained by field', (value, field, reason) => {
  expect(explainProblems(Value.Errors(Body, value))).toEqual({ reason, field });
});
