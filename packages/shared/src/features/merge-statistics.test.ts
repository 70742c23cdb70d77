import { expect, test } from '@jest/globals';
import type { ErrorCode, OctomilError } from '@octomil/shared/errors';
import { columnCoverage } from './column-coverage.js';
import { encodedWidth } from './column-width.js';
import type { FeatureColumn, FeatureSpec } from './feature-spec.js';
import { type MergeOptions, mergeStatistics, type SiteEntry } from './merge-statistics.js';
import { parseFeatureSpec } from './parse-spec.js';
import type { CategoryCount, ColumnStatistics, SiteStatistics } from './site-statistics.js';
import { hashFeatureSpec, sealFeatureSpec } from './spec-hash.js';
import { parseTargetRule } from './target-rule.js';

const counts = (values: Readonly<Record<string, number>>): CategoryCount[] =>
  Object.entries(values).map(([value, count]) => ({ value, count }));

function measured(name: string, mean: number, deviation: number, count = 100, zeros = 0): ColumnStatistics {
  const moments = { count, mean, deviation };
  return { name, seen: 'numeric', count, missing: 0, zeros, moments, levels: null, categories: [], other: 0 };
}

function levelled(
  name: string,
  seen: ColumnStatistics['seen'],
  values: Readonly<Record<string, number>>,
  other = 0,
): ColumnStatistics {
  const categories = counts(values);
  const count = categories.reduce((sum, category) => sum + category.count, other);
  const levels = categories.length + (other > 0 ? 2 : 0);
  return { name, seen, count, missing: 100 - count, zeros: 0, moments: null, levels, categories, other };
}

function site(name: string, columns: ColumnStatistics[], more: Partial<SiteStatistics> = {}): SiteEntry {
  const classes = counts({ 0: 60, 1: 40 });
  return {
    deviceId: `device-${name}`,
    name,
    statistics: {
      formatVersion: 1,
      rows: 100,
      columns,
      excluded: [],
      target: { column: 'y', seen: 'integer', count: 100, missing: 0, classes, other: 0, moments: null },
      ...more,
    },
  };
}

const options: MergeOptions = { target: parseTargetRule('y>0') };
const age = measured('age', 50, 10);

function merge(sites: readonly SiteEntry[], more: Partial<MergeOptions> = {}) {
  const warnings: string[] = [];
  const spec = mergeStatistics(sites, { ...options, ...more, onWarning: (warning) => warnings.push(warning) });
  const columns: Record<string, FeatureColumn> = Object.fromEntries(spec.columns.map((one) => [one.name, one]));
  return { spec, columns, warnings: warnings.join('\n') };
}

function refusal(code: ErrorCode, act: () => unknown): string {
  try {
    act();
  } catch (thrown) {
    expect(thrown).toMatchObject({ code });
    return (thrown as OctomilError).reason;
  }
  throw new TypeError('nothing was thrown');
}

test('mean and deviation over all sites are those of the rows put together', () => {
  const { columns } = merge([site('a', [measured('x', 1e6, 1)]), site('b', [measured('x', 1e6 + 4, 2, 300)])], {});
  // ((1 + 4² ... ) worked out by hand: mean 1e6 + 3, variance (100·1 + 300·4)/400 + 16·100·300/400² = 6.25.
  expect(columns['x']).toMatchObject({ mean: 1_000_000, deviation: 2.5 });
});

test('the result depends on the sites in device order, not on who answered first or how a file orders its columns', () => {
  const sites = [site('b', [age, measured('x', 3, 1)]), site('a', [measured('x', 5, 2)]), site('c', [age])];
  const inOrder = (arrived: readonly SiteEntry[]) =>
    merge(arrived.toSorted((one, two) => (one.deviceId < two.deviceId ? -1 : 1))).spec;
  const { hash } = inOrder(sites);
  expect(inOrder(sites.toReversed()).hash).toBe(hash);
  const turned = sites.map((one) => ({
    ...one,
    statistics: { ...one.statistics, columns: one.statistics.columns.toReversed() },
  }));
  expect(inOrder(turned).hash).toBe(hash);
});

test('columns come in natural order, and match whatever their spelling', () => {
  const { spec } = merge([
    site('a', [measured('px10', 1, 1), measured('PX2', 1, 1), measured('px1', 1, 1)]),
    site('b', [measured(' px2', 1, 1), measured('px10', 1, 1)]),
  ]);
  expect(spec.columns.map(({ name }) => name)).toEqual(['px1', 'PX2', 'px10']);
});

test('kinds are decided over all sites', () => {
  const { columns } = merge([
    site(
      'a',
      [
        levelled('smoker', 'text', { yes: 50, no: 50 }),
        levelled('grade', 'integer', { 1: 50, 2: 50 }),
        levelled('visits', 'integer', { 1: 50, 2: 50 }),
        levelled('bp', 'integer', { 110: 50, 120: 50 }),
        levelled('ward', 'text', { east: 40, west: 30 }, 30),
      ].map((column) =>
        column.seen === 'integer' ? { ...column, moments: { count: 100, mean: 2, deviation: 1 } } : column,
      ),
    ),
    site('b', [
      { ...levelled('smoker', 'integer', { 0: 80, 1: 20 }), moments: { count: 100, mean: 0.2, deviation: 0.4 } },
      { ...levelled('grade', 'integer', { 3: 60, 4: 40 }), moments: { count: 100, mean: 3, deviation: 1 } },
      { ...measured('visits', 30, 10), seen: 'integer' },
      levelled('ward', 'text', { north: 100 }),
    ]),
  ]);
  expect(columns['smoker']).toMatchObject({ kind: 'boolean', mean: 0.35 });
  expect(columns['grade']).toMatchObject({ kind: 'categorical', values: 'number', levels: ['1', '2', '3', '4'] });
  expect(columns['visits']?.kind).toBe('numeric');
  expect(columns['bp']).toMatchObject({ kind: 'numeric', missingIndicator: true });
  expect(columns['ward']).toMatchObject({ kind: 'categorical', values: 'text', levels: ['east', 'north', 'west'] });
});

test('text in a column that is numeric elsewhere names the site and the column', () => {
  const reason = refusal('data_mismatch', () =>
    merge([site('a', [age]), site('b', [levelled('age', 'text', { old: 50, young: 50 })])]),
  );
  expect(reason).toContain('site "b"');
  expect(reason).toContain('"age"');
});

test('a site without the target, or without a usable column, is named with the reason', () => {
  expect(refusal('data_mismatch', () => merge([site('a', [age]), site('b', [age], { target: null })]))).toMatch(
    /site "b".*no target column "y".*age/,
  );
  expect(refusal('data_mismatch', () => merge([site('a', [age]), site('b', [])]))).toMatch(/site "b".*age/);
});

test('one class at one site is a warning, over all sites an error', () => {
  const target = { column: 'y', seen: 'integer', count: 100, missing: 0, other: 0, moments: null } as const;
  const oneClass = site('b', [age], { target: { ...target, classes: counts({ 1: 100 }) } });
  expect(merge([site('a', [age]), oneClass]).warnings).toContain('site "b" has one class');
  expect(refusal('data_mismatch', () => merge([oneClass]))).toContain('one class');
});

test('zeros that stand out become missing, where no marker is declared', () => {
  const sites = [
    site('a', [age, measured('chol', 250, 50)]),
    site('b', [age, measured('chol', 250, 50, 60, 40)]),
    site('c', [age, { ...levelled('chol', 'integer', { 0: 100 }), moments: { count: 100, mean: 0, deviation: 0 } }]),
  ];
  const { spec, columns, warnings } = merge(sites);
  expect(columns['chol']).toMatchObject({ mean: 250, deviation: 50, missingMarkers: [0], missingIndicator: true });
  expect(warnings).toContain('"chol"');
  const chol = columnCoverage(sites, spec).find(({ name }) => name === 'chol');
  expect(chol?.sites.map(({ present }) => present)).toEqual([true, true, false]);
  expect(chol?.missingRatio).toBeCloseTo(140 / 300);
  expect(merge(sites, { missingMarkers: { chol: [-9] } }).columns['chol']).toMatchObject({ missingMarkers: [-9] });
});

test('constant columns and those that a site excludes are left out, with a word', () => {
  const excluded = [{ name: 'Patient ID', reason: 'identifier' }] as const;
  const { columns, warnings } = merge([
    site('a', [age, measured('same', 5, 0), levelled('sex', 'text', { f: 100 })], { excluded }),
  ]);
  expect(Object.keys(columns)).toEqual(['age']);
  for (const name of ['same', 'sex', 'Patient ID']) expect(warnings).toContain(`"${name}"`);
});

test('bare targets: two classes, several, numbers', () => {
  const with_ = (target: Partial<SiteStatistics['target']>) => {
    const all = { column: 'y', seen: 'text', count: 100, missing: 0, classes: [], other: 0, moments: null, ...target };
    return [site('a', [age], { target: all as SiteStatistics['target'] })];
  };
  const bare = { target: parseTargetRule('y') };
  expect(merge(with_({ classes: counts({ yes: 50, no: 50 }) }), bare).spec.target).toMatchObject({
    output: { kind: 'binary' },
    classes: ['0', '1'],
    values: 'boolean',
  });
  expect(merge(with_({ classes: counts({ c: 20, a: 50, b: 30 }) }), bare).spec.target).toMatchObject({
    output: { kind: 'multiclass', classes: 3 },
    classes: ['a', 'b', 'c'],
  });
  expect(merge(with_({ seen: 'integer', classes: counts({ 10: 20, 9: 80 }) }), bare).spec.target.classes).toEqual([
    '9',
    '10',
  ]);
  const continuous = with_({ seen: 'numeric', classes: null, moments: { count: 100, mean: 7, deviation: 2 } });
  expect(merge(continuous, { ...bare, output: 'regression' }).spec.target).toMatchObject({ mean: 7, deviation: 2 });
  expect(refusal('data_mismatch', () => merge(continuous, bare))).toContain('regression');
  expect(
    refusal('data_mismatch', () =>
      merge(with_({ classes: counts({ a: 50, b: 50 }) }), { ...bare, output: 'multiclass' }),
    ),
  ).toContain('2 classes');
});

test('a grid keeps every number column, scaled alike and without indicators', () => {
  const { spec } = merge([site('a', [measured('px10', 0, 0), measured('px2', 2, 1)])], { layout: 'grid' });
  expect(spec.columns.map(({ name }) => name)).toEqual(['px2', 'px10']);
  expect(encodedWidth(spec)).toBe(2);
  // Mean 1, variance (0 + 1)/2 + 1.
  for (const column of spec.columns) expect(column).toMatchObject({ mean: 1, deviation: 1.22474 });
});

test('a spec survives JSON, and a changed, oversized or malformed one is refused', () => {
  const { spec } = merge([site('a', [age])]);
  const copy = (): FeatureSpec => JSON.parse(JSON.stringify(spec)) as FeatureSpec;
  expect(parseFeatureSpec(copy())).toEqual(spec);
  expect(hashFeatureSpec(copy())).toBe(spec.hash);
  expect(refusal('invalid_input', () => parseFeatureSpec({ ...copy(), layout: 'grid' }))).toContain('hash');
  expect(refusal('invalid_input', () => parseFeatureSpec({ ...copy(), formatVersion: 2 }))).toContain('format version');
  expect(refusal('invalid_input', () => parseFeatureSpec(null))).toContain('feature spec');
  const [first] = spec.columns;
  const many = { ...copy(), columns: new Array(10_001).fill(first) };
  expect(refusal('too_large', () => parseFeatureSpec(many))).toContain('10001');
  expect(refusal('invalid_input', () => parseFeatureSpec({ ...copy(), columns: [first, first] }))).toContain('twice');
});

test('the spec says how the classes of the target were spread over all sites, and how many rows had none', () => {
  const told = { column: 'y', seen: 'text' as const, count: 80, missing: 20, moments: null };
  const of = (values: Readonly<Record<string, number>>, other = 0) => ({
    target: { ...told, classes: counts(values), other },
  });
  const { spec } = merge([site('a', [age], of({ ill: 20, well: 60 })), site('b', [age], of({ well: 60 }, 20))], {
    target: parseTargetRule('y'),
  });
  expect(spec.target).toMatchObject({ classes: ['ill', 'well'] });
  expect(spec.target.reference).toEqual({ missingRatio: 0.2, classRatios: [0.125, 0.75, 0.125] });
  expect(parseFeatureSpec(structuredClone(spec))).toEqual(spec);
  const { reference: _, ...before } = spec.target;
  const older = sealFeatureSpec({ ...spec, target: before });
  expect(parseFeatureSpec(older)).toEqual(older);
  const short = sealFeatureSpec({ ...spec, target: { ...before, reference: { missingRatio: 0, classRatios: [0.5] } } });
  expect(refusal('invalid_input', () => parseFeatureSpec(short))).toContain('1 class shares in place of 3');
  const numbers = { ...told, seen: 'numeric' as const, classes: null, other: 0 };
  const moments = { count: 80, mean: 4, deviation: 2 };
  const regression = merge([site('a', [age], { target: { ...numbers, moments } })], {
    ...{ target: parseTargetRule('y'), output: 'regression' },
  });
  expect(regression.spec.target.reference).toEqual({ missingRatio: 0.2 });
  // A comparison has two classes and names none.
  expect(merge([site('a', [age])]).spec.target.reference).toEqual({ missingRatio: 0, classRatios: [0.6, 0.4, 0] });
});

test.each(['table', 'grid'] as const)('a site that calls a column of a %s by an alias has it', (layout) => {
  const hints = { px1: { aliases: ['pixel 1', 'first'] } };
  const sites = [
    site('a', [measured('pixel_1', 5, 1), measured('px2', 3, 1)]),
    site('b', [measured('px1', 5, 1), measured('px2', 3, 1)]),
  ];
  const { spec, columns } = merge(sites, { layout, hints });
  expect(spec.columns.map(({ name }) => name)).toEqual(['px1', 'px2']);
  expect(columns['px1']?.aliases).toEqual(['pixel 1', 'first']);
  expect(columnCoverage(sites, spec)[0]?.sites.map(({ present }) => present)).toEqual([true, true]);
});

test('of several names for one column at a site, the one that is read decides, and the others are told', () => {
  const hints = { chol: { aliases: ['cholesterol', 'cholesterin'] } };
  const other = site('b', [measured('chol', 200, 40)]);
  const of = (...names: readonly string[]) =>
    merge(
      [
        site(
          'a',
          names.map((name, place) => measured(name, 100 * (place + 1), 1)),
        ),
        other,
      ],
      { hints },
    );
  const own = of('cholesterol', 'chol');
  expect(own.columns['chol']).toMatchObject({ mean: 200 });
  expect(own.warnings).toBe(
    'site "a": its column "cholesterol" is not used, as it is another name for its column "chol"',
  );
  const second = of('cholesterin', 'cholesterol');
  expect(second.columns['chol']).toMatchObject({ mean: 200 });
  expect(second.warnings).toContain('"cholesterin" is not used, as it is another name for its column "cholesterol"');
  expect(of('chol', 'cholesterin')).toMatchObject({
    columns: { chol: { mean: 150 } },
    warnings: expect.stringContaining('"cholesterin" is not used'),
  });
});
