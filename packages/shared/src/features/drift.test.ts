import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { driftWarnings, siteDrift } from './drift-warnings.js';
import type { FeatureColumn, TargetSpec } from './feature-spec.js';
import { loadDataset } from './load-dataset.js';
import { sealFeatureSpec } from './spec-hash.js';
import { roundMoments } from './suppression.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-drift-'));
afterAll(() => rmSync(folder, { recursive: true }));

const plain = { missingMarkers: [], missingIndicator: false } as const;
const columns: readonly FeatureColumn[] = [
  { kind: 'numeric', name: 'chol', mean: 5, deviation: 1, range: [1, 20], ...plain, missingMarkers: [0] },
  { kind: 'numeric', name: 'bp', mean: 120, deviation: 10, ...plain, reference: { missingRatio: 0.05 } },
  {
    kind: 'categorical',
    name: 'ward',
    levels: ['east', 'west'],
    values: 'text',
    ...plain,
    reference: { missingRatio: 0, levelRatios: [0.5, 0.5, 0] },
  },
];
const spec = sealFeatureSpec({
  formatVersion: 1,
  layout: 'table',
  columns,
  target: {
    rule: { column: 'y' },
    output: { kind: 'regression' },
    classes: [],
    values: 'number',
    mean: 1,
    deviation: 1,
    missingMarkers: [],
  },
});

async function driftOf(rows: readonly (readonly [unknown, unknown, unknown])[]) {
  const path = join(folder, 'rows.csv');
  writeFileSync(path, `chol,bp,ward,y\n${rows.map((cells) => [...cells, 1].join(',')).join('\n')}\n`);
  const { drift } = await loadDataset({ path, delimiter: ',' }, spec, { salt: '', shareRatio: 0.2 });
  return drift;
}

const many = (count: number, row: readonly [unknown, unknown, unknown]) => Array.from({ length: count }, () => row);

test('shift, missing values, unknown levels and implausible values are told', async () => {
  const drift = await driftOf([
    ...many(60, [5.5, 130, 'east']),
    ...many(20, [200, '', 'north']),
    ...many(20, [0, '', 'west']),
  ]);
  expect(drift).toMatchObject({ specHash: spec.hash, rows: 100 });
  const [chol, bp, ward] = drift.columns;
  // 60 at +0.5 and 20 cut off at +10, over 80.
  expect(chol).toEqual({
    name: 'chol',
    missingRatio: 0.2,
    referenceMissingRatio: 0,
    shift: 2.875,
    clippedRatio: 0.25,
    implausibleRatio: 0.25,
  });
  expect(bp).toMatchObject({ missingRatio: 0.4, referenceMissingRatio: 0.05, shift: 1, clippedRatio: 0 });
  expect(ward).toMatchObject({ unknownRatio: 0.2, referenceUnknownRatio: 0, levelShift: 0.3 });
  expect(driftWarnings(drift).map(({ column, measure }) => `${column} ${measure}`)).toEqual([
    'chol shift',
    'chol missingRatio',
    'chol clippedRatio',
    'chol implausibleRatio',
    'bp shift',
    'bp missingRatio',
    'ward unknownRatio',
    'ward levelShift',
  ]);
  expect(drift.warnings).toContain('column "bp": 40 % is missing, against 5 % when the features were agreed');
  const lenient = { shift: 5, missingRatio: 1, unknownRatio: 1, levelShift: 1, clippedRatio: 1, implausibleRatio: 1 };
  expect(driftWarnings(drift, lenient)).toEqual([]);
});

test('a table like the spec gives no warning, and one that lacks a column says so', async () => {
  const alike = Array.from(
    { length: 100 },
    (_, i) => [4 + (i % 3), 110 + (i % 21), i % 2 === 0 ? 'east' : 'west'] as const,
  );
  expect((await driftOf(alike)).warnings).toEqual([]);
  const path = join(folder, 'less.csv');
  writeFileSync(
    path,
    `chol,y\n${many(50, [5, 1, ''])
      .map(([chol, y]) => `${String(chol)},${String(y)}`)
      .join('\n')}\n`,
  );
  const { drift } = await loadDataset({ path, delimiter: ',' }, spec, { salt: '', shareRatio: 0 });
  expect(drift.columns[1]).toEqual({ name: 'bp', missingRatio: 1, referenceMissingRatio: 0.05 });
});

test('whatever fewer than ten rows hold, nothing tells of them', async () => {
  const base = many(100, [5, 120, 'east']);
  const odd = fc.constantFrom<[unknown, unknown, unknown]>(
    ['', 120, 'east'],
    [5, '', 'east'],
    [5, 120, 'north'],
    [5, 120, ''],
    [5, 1e6, 'east'],
    [-30, -1e6, 'east'],
    [5, Number.MAX_VALUE, 'east'],
  );
  const known = await driftOf(base);
  await fc.assert(
    fc.asyncProperty(odd, fc.integer({ min: 1, max: 9 }), async (row, count) => {
      expect(await driftOf([...base.slice(count), ...many(count, row)])).toEqual(known);
    }),
    { numRuns: 15 },
  );
});

test.each<[FeatureColumn, unknown, unknown]>([
  [{ kind: 'numeric', name: 'a', mean: 50, deviation: 1e-9, ...plain }, 40, 60],
  [{ kind: 'numeric', name: 'a', mean: 49, deviation: 0.1, clip: [49, 50], ...plain }, 40, 60],
  [{ kind: 'boolean', name: 'a', mean: 0, deviation: 0.1, ...plain }, 0, 1],
  [
    {
      kind: 'datetime',
      name: 'a',
      format: 'iso',
      from: '2020-01-01',
      parts: [{ part: 'days', mean: 0, deviation: 1e-9 }],
      ...plain,
    },
    '2019-01-01',
    '2021-01-01',
  ],
])('a spec that is made to count few rows by their mean does not: %j', async (column, usual, rare) => {
  const path = join(folder, 'chosen.csv');
  const chosen = sealFeatureSpec({ ...spec, columns: [column] });
  const shiftOf = async (few: number) => {
    const cells = Array.from({ length: 200 }, (_, row) => `${String(row < few ? rare : usual)},1`);
    writeFileSync(path, `a,y\n${cells.join('\n')}\n`);
    const { drift } = await loadDataset({ path, delimiter: ',' }, chosen, { salt: '', shareRatio: 0 });
    return drift.columns[0]?.shift;
  };
  const none = await shiftOf(0);
  expect(none).toEqual(expect.any(Number));
  expect(await shiftOf(9)).toBe(none);
  expect(await shiftOf(50)).not.toBe(none);
  // In tens, as counts are.
  expect(await shiftOf(48)).toBe(await shiftOf(50));
});

test('whatever constants a spec names, it learns a mean no finer than the description tells it', async () => {
  const path = join(folder, 'fine.csv');
  const cells = Array.from({ length: 500 }, (_, row) => 50.41 + ((row * 37) % 101) / 7);
  writeFileSync(path, `a,y\n${cells.map((cell) => `${String(cell)},${String(cell)}`).join('\n')}\n`);
  const mean = cells.reduce((sum, cell) => sum + cell, 0) / cells.length;
  const deviation = Math.sqrt(cells.reduce((sum, cell) => sum + (cell - mean) ** 2, 0) / cells.length);
  const told = roundMoments({ count: 500, mean, deviation }).mean;
  expect(Math.abs(told - mean)).toBeGreaterThan(deviation / 200);
  for (const [center, scale] of [
    [mean, deviation],
    [mean + 0.1, deviation / 3],
    [mean - 0.7, deviation / 4],
    [mean - 3 * deviation, deviation],
  ] as const) {
    const constants = { mean: center, deviation: scale };
    const chosen = sealFeatureSpec({
      ...spec,
      columns: [{ kind: 'numeric', name: 'a', ...constants, ...plain }],
      target: { ...spec.target, ...constants },
    });
    const { drift } = await loadDataset({ path, delimiter: ',' }, chosen, { salt: '', shareRatio: 0 });
    for (const { shift = 0 } of drift.columns) expect(center + shift * scale).toBeCloseTo(told, 2);
  }
  // By a coarser spec, coarser.
  const wide = sealFeatureSpec({
    ...spec,
    columns: [{ kind: 'numeric', name: 'a', mean: 0, deviation: 16 * 32, ...plain }],
  });
  const { drift } = await loadDataset({ path, delimiter: ',' }, wide, { salt: '', shareRatio: 0 });
  expect((drift.columns[0]?.shift ?? 0) * 32).toBe(Math.round(mean / 16));
});

test('rows without a target or of a class that nobody agreed on, and numbers that moved, are told of the target', async () => {
  const path = join(folder, 'target.csv');
  const targetOf = async (target: Partial<TargetSpec>, ys: readonly unknown[]) => {
    writeFileSync(path, `chol,y\n${ys.map((y) => `5,${String(y)}`).join('\n')}\n`);
    const changed = sealFeatureSpec({ ...spec, target: { ...spec.target, ...target } });
    const { drift, train } = await loadDataset({ path, delimiter: ',' }, changed, { salt: '', shareRatio: 0 });
    return {
      ...drift.columns.at(-1),
      learned: train.rows,
      warnings: drift.warnings.filter((one) => one.includes('"y"')),
    };
  };
  const ys = [
    ...new Array<string>(60).fill('well'),
    ...new Array<string>(10).fill('ill'),
    ...new Array<string>(10).fill('gone'),
    ...new Array<string>(20).fill(''),
  ];
  const classes: Partial<TargetSpec> = { output: { kind: 'binary' }, classes: ['ill', 'well'], values: 'text' };
  expect(await targetOf(classes, ys)).toEqual({
    ...{ name: 'y', missingRatio: 0.2, unknownRatio: 0.125, learned: 70 },
    warnings: ['column "y": 12.5 % of its values are no agreed level, against 0 %'],
  });
  // Against what it was when the features were agreed, where the spec says: 10 more of "gone", 10 fewer of "ill".
  const reference = { missingRatio: 0.05, classRatios: [0.25, 0.75, 0] };
  expect(await targetOf({ ...classes, reference }, ys)).toMatchObject({
    ...{ missingRatio: 0.2, referenceMissingRatio: 0.05, unknownRatio: 0.125, referenceUnknownRatio: 0 },
    levelShift: 0.125,
    warnings: [expect.stringContaining('20 % is missing, against 5 %'), expect.stringContaining('no agreed level')],
  });
  const turned = ys.map((y) => (y === 'well' ? 'ill' : y === 'ill' ? 'well' : y));
  const { levelShift, warnings } = await targetOf({ ...classes, reference }, turned);
  expect([levelShift, warnings.at(-1)]).toEqual([0.625, expect.stringContaining('62.5 % of the rows would have to')]);
  const holds: Partial<TargetSpec> = {
    ...{ rule: { column: 'y', comparison: '>', value: 0 }, output: { kind: 'binary' } },
    reference: { missingRatio: 0, classRatios: [0.5, 0.5, 0] },
  };
  const oneOf = (ones: number) => Array.from({ length: 100 }, (_, row) => (row < ones ? 1 : 0));
  expect(await targetOf(holds, oneOf(90))).toMatchObject({ levelShift: 0.4, learned: 100 });
  // Nine rows of the other class are as none.
  expect((await targetOf(holds, oneOf(91))).levelShift).toBe((await targetOf(holds, oneOf(100))).levelShift);
  const few = ys.map((y, row) => (y === 'gone' && row % 2 === 0 ? 'ill' : y));
  expect(await targetOf(classes, few)).toMatchObject({ unknownRatio: 0, warnings: [] });
  const numbers = Array.from({ length: 100 }, (_, row) => (row < 20 ? -9 : 7));
  expect(await targetOf({ mean: 4, deviation: 2, missingMarkers: [-9] }, numbers)).toMatchObject({
    ...{ missingRatio: 0.2, shift: 1.5, learned: 80 },
    warnings: ['column "y": its mean is 1.50 standard deviations above that of the agreed features'],
  });
});

test('of many columns those that drifted most are told, in the order of the spec', () => {
  const all = Array.from({ length: 1_000 }, (_, i) => ({
    name: `c${String(i)}`,
    missingRatio: 0,
    shift: i % 4 === 0 ? 3 : 0,
  }));
  const drift = siteDrift('hash', 994, all);
  expect(drift.rows).toBe(990);
  expect(drift.columns.map(({ name }) => name)).toEqual(Array.from({ length: 200 }, (_, i) => `c${String(i * 4)}`));
  expect(drift.warnings).toHaveLength(50);
  expect(drift.warnings.at(-1)).toBe('and 151 more');
});
