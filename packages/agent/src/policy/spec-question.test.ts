import { expect, test } from '@jest/globals';
import { questionOfSpec } from './spec-question.js';

test('a spec asks for its target, with the markers of every column and of the target', () => {
  const rule = { column: 'num', comparison: '>', value: 0 };
  const columns = [
    { name: 'chol', missingMarkers: [0] },
    { name: 'age', missingMarkers: [] },
  ];
  expect(questionOfSpec({ columns, target: { rule, missingMarkers: [-9] } })).toEqual({
    target: rule,
    missingMarkers: { chol: [0], age: [], num: [-9] },
  });
});

test.each([
  undefined,
  null,
  7,
  {},
  { target: null },
  { target: { rule: 'num>0' } },
  { target: { rule: { column: 1 } } },
])('%j asks nothing', (spec) => {
  expect(questionOfSpec(spec)).toBeUndefined();
});

test('columns of another shape are passed over', () => {
  const spec = {
    columns: [null, 3, { name: 4 }, { name: 'a', missingMarkers: 'x' }],
    target: { rule: { column: 'b' } },
  };
  expect(questionOfSpec(spec)).toEqual({ target: { column: 'b' }, missingMarkers: {} });
});
