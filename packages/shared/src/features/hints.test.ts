import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import type { DataSource } from '@octomil/shared/data';
import type { OctomilError } from '@octomil/shared/errors';
import { columnCoverage } from './column-coverage.js';
import { describeSite } from './describe-site.js';
import { encodeRows } from './encode.js';
import type { FeatureHints } from './feature-hints.js';
import type { FeatureColumn, FeatureSpec } from './feature-spec.js';
import { loadDataset } from './load-dataset.js';
import { mergeStatistics, type SiteEntry } from './merge-statistics.js';
import { parseFeatureSpec } from './parse-spec.js';
import { hashFeatureSpec } from './spec-hash.js';
import { parseTargetRule } from './target-rule.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-hints-'));
afterAll(() => rmSync(folder, { recursive: true }));

const target = parseTargetRule('y>0');
let files = 0;

/** A CSV file of 200 rows; `y` is 0 and 1 in turn. */
function file(columns: Readonly<Record<string, (row: number) => unknown>>): string {
  const path = join(folder, `${String(files++)}.csv`);
  const lines = Array.from({ length: 200 }, (_, row) =>
    [...Object.values(columns).map((value) => value(row)), row % 2].join(','),
  );
  writeFileSync(path, `${[...Object.keys(columns), 'y'].join(',')}\n${lines.join('\n')}\n`);
  return path;
}

async function agree(sources: readonly DataSource[], hints: FeatureHints) {
  const warnings: string[] = [];
  const sites: SiteEntry[] = [];
  for (const [i, source] of sources.entries()) {
    const name = String.fromCharCode(97 + i);
    sites.push({ deviceId: name, name, statistics: await describeSite(source, { target, hints }) });
  }
  const spec = mergeStatistics(sites, { target, hints, onWarning: (warning) => warnings.push(warning) });
  expect(parseFeatureSpec(JSON.parse(JSON.stringify(spec)))).toEqual(spec);
  const columns: Record<string, FeatureColumn> = Object.fromEntries(spec.columns.map((one) => [one.name, one]));
  return { spec, sites, columns, warnings: warnings.join('\n') };
}

async function refusal(act: () => Promise<unknown>): Promise<string> {
  const thrown: unknown = await act().catch((error: unknown) => error);
  return `${(thrown as OctomilError).code}: ${(thrown as OctomilError).reason}`;
}

const holdout = { salt: '', shareRatio: 0 };
const age = (row: number) => 40 + (row % 30);
const mmol = (row: number) => 4 + (row % 5) / 2;

async function encoded(source: DataSource, spec: FeatureSpec): Promise<Float32Array> {
  const { train } = await loadDataset(source, spec, holdout);
  return await train.readRange(0, train.rows);
}

test('sites with other names and units give the inputs of one with the agreed ones', async () => {
  const hints: FeatureHints = {
    chol: { aliases: ['Cholesterin'], unit: 'mmol/L', range: [1, 20] },
    weight: { unit: 'kg' },
  };
  const weight = (row: number) => 60 + (row % 40);
  const plain = { path: file({ age, chol: mmol, weight }) };
  const other = {
    path: file({
      'Age (years)': age,
      cholesterin: (row) => (mmol(row) * 386.65) / 10,
      weight: (row) => weight(row) / 0.45359237,
    }),
    units: { chol: 'mg/dL', weight: 'lbs' },
    names: { age: 'age (years)' },
  };
  const { spec, sites, columns } = await agree([plain, other], hints);
  expect(columns['chol']).toMatchObject({ kind: 'numeric', unit: 'mmol/L', aliases: ['Cholesterin'] });
  expect(columns['chol']).toMatchObject({ mean: expect.closeTo(5, 1) });
  expect(Object.keys(columns)).toEqual(['age', 'chol', 'weight']);
  for (const { sites: covered } of columnCoverage(sites, spec)) {
    expect(covered.map(({ present }) => present)).toEqual([true, true]);
  }
  const [one, two] = [await encoded(plain, spec), await encoded(other, spec)];
  expect(one).toHaveLength(600);
  for (const [i, value] of one.entries()) expect(two[i]).toBeCloseTo(value, 4);
});

test('a unit that the spec does not know is refused by site and unit', async () => {
  const hints: FeatureHints = { chol: { unit: 'mmol/L' } };
  const good = { path: file({ age, chol: mmol }) };
  const odd = { path: file({ age, chol: mmol }), units: { chol: 'grains' } };
  expect(await refusal(() => agree([good, odd], hints))).toMatch(/data_mismatch: site "b".*"chol" is in grains/);
  const { spec } = await agree([good], hints);
  expect(await refusal(() => loadDataset(odd, spec, holdout))).toMatch(
    /data_mismatch:.*"chol" in grains.*mmol\/L, mg\/dl/,
  );
  const { columns } = await agree([good, odd], {
    chol: { unit: 'mmol/L', units: { grains: { factor: 2, offset: 1 } } },
  });
  expect(columns['chol']).toMatchObject({ units: { grains: { factor: 2, offset: 1 } } });
});

test('a name or unit of no column is refused, for a slip would go unnoticed', async () => {
  const path = file({ age, chol: mmol });
  expect(await refusal(() => agree([{ path, units: { cholesterol: 'mg/dL' } }], {}))).toContain(
    'no column "cholesterol"',
  );
  expect(await refusal(() => agree([{ path, names: { chol: 'Serum' } }], {}))).toContain('no column "Serum"');
});

test('an implausible mean warns at once, implausible values with the drift', async () => {
  const good = { path: file({ age, chol: mmol }) };
  const wrong = { path: file({ age, chol: (row) => mmol(row) * 38.665 }) };
  const { warnings, spec } = await agree([good, wrong], { chol: { unit: 'mmol/L', range: [1, 20] } });
  expect(warnings).toMatch(/site "b".*"chol" is outside of 1 to 20 mmol\/L/);
  const { drift } = await loadDataset(wrong, spec, holdout);
  expect(drift.columns.find(({ name }) => name === 'chol')).toMatchObject({ implausibleRatio: 1 });
  expect(drift.warnings.join('\n')).toContain('another unit');
});

const KINDS: FeatureHints = {
  pain: { kind: 'ordinal', levels: ['none', 'mild', 'severe'] },
  grade: { kind: 'ordinal' },
  dob: { kind: 'datetime', derive: ['years'], reference: { column: 'seen' }, format: 'dd.mm.yyyy' },
  icd: { kind: 'hashed', buckets: 16 },
  crp: { scale: 'log1p', clip: [0, 500] },
  ward: { exclude: true },
};
const kinds = {
  age,
  pain: (row: number) => ['none', 'mild', 'severe', ''][row % 4],
  grade: (row: number) => 1 + (row % 3),
  dob: (row: number) => `1${row % 9}.0${1 + (row % 9)}.19${String(30 + (row % 50))}`,
  seen: () => '01.06.2020',
  icd: (row: number) => `I${String(row % 150)}.${String(row % 7)}`,
  crp: (row: number) => Math.exp((row % 80) / 10),
  ward: (row: number) => ['east', 'west'][row % 2],
};

test('hinted kinds follow from aggregates, and files are encoded as rows are', async () => {
  const source = { path: file(kinds) };
  const { spec, sites, columns, warnings } = await agree([source, { path: file(kinds) }], KINDS);
  expect(columns['pain']).toMatchObject({
    kind: 'ordinal',
    levels: ['none', 'mild', 'severe'],
    mean: 1,
    reference: { missingRatio: 0.25, levelRatios: [0.333, 0.333, 0.333, 0.001] },
  });
  expect(columns['grade']).toMatchObject({ kind: 'ordinal', levels: ['1', '2', '3'], values: 'number' });
  expect(columns['dob']).toMatchObject({
    kind: 'datetime',
    parts: [{ part: 'years', mean: expect.closeTo(-65.5, 0) }],
  });
  expect(columns['icd']).toMatchObject({ kind: 'hashed', buckets: 16 });
  const logs = Array.from({ length: 200 }, (_, row) => Math.log1p(Math.min(500, kinds.crp(row))));
  const mean = logs.reduce((sum, one) => sum + one, 0) / logs.length;
  expect(columns['crp']).toMatchObject({ scale: 'log1p', mean: expect.closeTo(mean, 1) });
  expect(columns['ward']).toBeUndefined();
  expect(warnings).toContain('"seen" is left out');
  const told = JSON.stringify(sites);
  for (const secret of ['I1', '1930', '01.06']) expect(told).not.toContain(secret);
  const rows = Array.from({ length: 200 }, (_, row) =>
    Object.fromEntries(Object.entries(kinds).map(([name, value]) => [name, String(value(row))])),
  );
  expect(await encoded(source, spec)).toEqual(encodeRows(spec, rows));
});

test('identifiers, dates and free text stay out by default, and the warning says how to take one in', async () => {
  const source = {
    path: file({
      age,
      patient_id: (row) => `p${String(row)}`,
      dob: (row) => `19${String(30 + (row % 50))}-01-01`,
      full_name: (row) => `name ${String(row % 99)}`,
      notes: (row) => `note ${String(row % 90)}`,
    }),
  };
  const { columns, warnings } = await agree([source], {});
  expect(Object.keys(columns)).toEqual(['age']);
  for (const name of ['patient_id', 'dob', 'full_name', 'notes']) {
    expect(warnings).toMatch(new RegExp(`"${name}" is left out.*hint`));
  }
  const { columns: wanted } = await agree([source], {
    notes: { kind: 'hashed' },
    dob: { kind: 'datetime', derive: ['month'] },
  });
  expect(Object.keys(wanted)).toEqual(['age', 'dob', 'notes']);
});

test('codes with leading zeros are categories or hashed, and huge whole numbers are warned of', async () => {
  const pad = (value: number) => String(value).padStart(5, '0');
  const { columns, warnings } = await agree(
    [
      {
        path: file({
          age,
          site: (row) => pad(row % 4),
          drg: (row) => pad(row % 60),
          account: (row) => 10 ** 12 + row ** 3,
        }),
      },
    ],
    {},
  );
  expect(columns['site']).toMatchObject({
    kind: 'categorical',
    values: 'text',
    levels: ['00000', '00001', '00002', '00003'],
  });
  expect(columns['drg']?.kind).toBe('hashed');
  expect(warnings).toMatch(/"account".*beyond 16777216/);
});

test('hints that cannot hold are refused with what to do', async () => {
  const source = { path: file(kinds) };
  expect(await refusal(() => agree([source], { pain: { kind: 'ordinal' } }))).toMatch(/invalid_input.*levels/);
  expect(await refusal(() => agree([source], { pain: { kind: 'numeric' } }))).toMatch(/site "a".*"pain".*numbers/);
  expect(await refusal(() => agree([source], { seen: { kind: 'datetime' } }))).toMatch(/data_mismatch.*2020-12-31/);
  const spans: FeatureHints = { seen: { kind: 'datetime', derive: ['days'], format: 'dd.mm.yyyy' } };
  expect(await refusal(() => agree([source], spans))).toMatch(/invalid_input.*reference/);
  expect((await agree([source], { nothing: { kind: 'hashed' } })).warnings).toContain('"nothing" is idle');
});

test('a spec that uses nothing new keeps its hash', () => {
  const stored: Omit<FeatureSpec, 'hash'> = {
    formatVersion: 1,
    layout: 'table',
    columns: [
      { kind: 'numeric', name: 'age', mean: 54.5, deviation: 9, missingMarkers: [0], missingIndicator: false },
      { kind: 'boolean', name: 'smoker', mean: 0.4, deviation: 0.5, missingMarkers: [], missingIndicator: true },
      {
        kind: 'categorical',
        name: 'ward',
        levels: ['east', 'west'],
        values: 'text',
        missingMarkers: ['x'],
        missingIndicator: true,
      },
    ],
    target: {
      rule: { column: 'y', comparison: '>', value: 0 },
      output: { kind: 'binary' },
      classes: [],
      values: 'number',
      mean: 0,
      deviation: 1,
      missingMarkers: [],
    },
  };
  const hash = hashFeatureSpec(stored);
  expect(hash).toBe('70146d23829830097d7e6f6b7db23ed5f5ca010c163ef8af399b580c987937d6');
  expect(parseFeatureSpec({ ...stored, hash })).toEqual({ ...stored, hash });
});

test('specs whose parts contradict each other are refused', () => {
  const spec = (column: object) => {
    const stored = {
      formatVersion: 1,
      layout: 'table',
      columns: [{ name: 'c', missingMarkers: [], missingIndicator: false, ...column }],
      target: {
        rule: { column: 'y' },
        output: { kind: 'regression' },
        classes: [],
        values: 'number',
        mean: 0,
        deviation: 1,
        missingMarkers: [],
      },
    } as unknown as Omit<FeatureSpec, 'hash'>;
    return () => parseFeatureSpec({ ...stored, hash: hashFeatureSpec(stored) });
  };
  const scaling = { mean: 0, deviation: 1 };
  expect(spec({ kind: 'numeric', ...scaling, aliases: ['d', 'D '] })).toThrow('twice');
  expect(spec({ kind: 'numeric', ...scaling, clip: [1, 1] })).toThrow('clipped');
  expect(spec({ kind: 'numeric', ...scaling, units: { g: { factor: 0, offset: 1 } } })).toThrow('factor of 0');
  expect(spec({ kind: 'ordinal', ...scaling, levels: ['a', 'a'], values: 'text' })).toThrow('"a" twice');
  expect(spec({ kind: 'datetime', format: 'iso', parts: [{ part: 'days', ...scaling }] })).toThrow('from when');
  expect(spec({ kind: 'datetime', format: 'iso', parts: [{ part: 'month' }], from: 'soon' })).toThrow('"soon"');
  expect(spec({ kind: 'hashed', buckets: 1_000_000, seed: '' })).toThrow('feature spec');
});

test('limits that a few values lie beyond, or between, tell nothing of them', async () => {
  const asked = async (few: number, value: number, clip: [number, number]) => {
    const path = file({ crp: (row) => (row < few ? value : 10 + (row % 3)) });
    const { columns } = await describeSite({ path }, { target, hints: { crp: { clip } } });
    return columns[0]?.derived;
  };
  expect(await asked(6, 60, [49, 50])).toMatchObject([{ moments: { mean: 49, deviation: 0 } }]);
  expect(await asked(6, 49.5, [49, 50])).toMatchObject([{ moments: { mean: 49, deviation: 0 } }]);
  expect(await asked(60, 60, [49, 50])).toMatchObject([{ moments: { mean: expect.closeTo(49.3, 1) } }]);
});

test.each<[unknown, RegExp]>([
  [[], /must be an object/],
  [{ x: null }, /"x" is null, not an object/],
  [{ x: { aliases: 5 } }, /"x" has aliases = 5/],
  [{ x: { clip: [1] } }, /"x" has clip = \[1\]/],
  [{ x: { clip: [1, null] } }, /"x" has clip/],
  [{ x: { buckets: 1e9 } }, /"x" has buckets = 1000000000/],
  [{ x: { format: '(a+)+$' } }, /"x" has format/],
  [{ x: { unit: 'mg/dl', units: { 'mmol/l': 0 } } }, /"x" converts mmol\/l by a factor of 0/],
  [{ x: { range: [5, 1] } }, /"x" has the range 5 to 1, which is empty/],
  [{ x: { clip: [5, 5] } }, /"x" clips to 5 to 5/],
  [{ x: { aliases: ['Weight'] }, w: { aliases: ['weight '] } }, /"x" and "w" both mean "weight "/],
  [{ x: { aliases: ['W'] }, w: {} }, /"w" and "x" both mean "W"/],
  [{ x: {}, X: {} }, /"x" and "X" both mean/],
])('hints that a site cannot take by their word are refused there: %j', async (hints, message) => {
  const path = file({ x: age });
  await expect(describeSite({ path }, { target, hints: hints as FeatureHints })).rejects.toMatchObject({
    code: 'invalid_input',
    reason: expect.stringMatching(message),
  });
});

test('an alias may be spelled twice, or as the column itself, and is one name all the same', async () => {
  const { columns } = await agree([{ path: file({ x: age }) }], {
    x: { aliases: ['X', 'Age at visit', 'age_at_visit'] },
  });
  expect(columns['x']?.aliases).toEqual(['Age at visit']);
});

test.each(['PatientID', 'hadmid', 'Patient No', 'medical_record_number', 'Insurance-Nr'])(
  '%s is an identifier, though its numbers are drawn at random',
  async (name) => {
    const drawn = (row: number) => (row * 7919 * 104_729) % 99_999_989;
    const { columns, warnings } = await agree(
      [{ path: file({ age, [name]: drawn, lipid: mmol, record_numbers: mmol }) }],
      {},
    );
    expect(Object.keys(columns)).toEqual(['age', 'lipid', 'record_numbers']);
    expect(warnings).toContain(`"${name}" is left out at a: it identifies`);
  },
);

test('limits make a column of few whole numbers numeric, and what a hint says of another kind is told to be idle', async () => {
  const sources = [{ path: file({ age, births: (row) => row % 5 }) }];
  const { columns, warnings } = await agree(sources, { births: { clip: [0, 3] }, age: { levels: [40, 41] } });
  expect(columns).toMatchObject({ births: { kind: 'numeric', clip: [0, 3] }, age: { kind: 'numeric' } });
  expect(warnings).toBe(
    'column "age": what its hint says of levels is idle, as the column is numeric; give it the kind categorical or ordinal',
  );
});

test('what is declared of a column by one of its names holds for all of them', async () => {
  const hints: FeatureHints = { chol: { aliases: ['cholesterol'] } };
  const usual = (row: number) => 200 + (row % 50);
  const sources = [
    { path: file({ age, chol: usual }) },
    { path: file({ age, cholesterol: (row) => (row % 4 === 0 ? -9 : usual(row)) }) },
  ];
  const asked = { target, hints, missingMarkers: { Cholesterol: [-9] } };
  const told = await Promise.all(sources.map((source) => describeSite(source, asked)));
  const entries = told.map((statistics, i): SiteEntry => ({ deviceId: `${i}`, name: `${i}`, statistics }));
  const spec = mergeStatistics(entries, asked);
  expect(spec.columns).toMatchObject([{ name: 'age' }, { name: 'chol', missingMarkers: [-9] }]);
  const { drift } = await loadDataset(sources[1] ?? { path: '' }, spec, holdout);
  expect(drift.columns[1]).toMatchObject({ missingRatio: 0.25, clippedRatio: 0 });
  // Were it left out of the description alone, training would read it by its alias.
  const without = { target, hints, exclude: ['cholesterol'] };
  expect((await describeSite(sources[1] ?? { path: '' }, without)).columns).toMatchObject([{ name: 'age' }]);
  expect(mergeStatistics(entries, without).columns).toMatchObject([{ name: 'age' }]);
});

test('the conversion that a hint gives goes before a known one, in training as in the merge', async () => {
  const hints: FeatureHints = { chol: { unit: 'mg/dL', units: { 'mmol/L': 40 } } };
  const source = { path: file({ chol: (row) => 4 + (row % 50) / 25 }), units: { chol: 'mmol/l' } };
  const { columns, spec } = await agree([source], hints);
  expect(columns['chol']).toMatchObject({ mean: expect.closeTo(199, 0), units: { 'mmol/L': { factor: 40 } } });
  // A known factor, of 38.665, would move them by a quarter of a deviation.
  const inputs = await encoded(source, spec);
  expect(Math.abs(inputs.reduce((sum, value) => sum + value, 0) / inputs.length)).toBeLessThan(0.05);
});

test('where zeros count as missing, clipped and scaled numbers are those of the other values', async () => {
  const crp = (row: number) => (row % 5 === 0 ? 0 : 200 + (row % 37));
  const hints: FeatureHints = { crp: { scale: 'log1p' } };
  const { columns, warnings } = await agree([{ path: file({ crp }) }], hints);
  expect(warnings).toContain('0 counts as missing');
  const logs = Array.from({ length: 200 }, (_, row) => crp(row))
    .filter((value) => value > 0)
    .map(Math.log1p);
  const mean = logs.reduce((sum, value) => sum + value, 0) / logs.length;
  expect(columns['crp']).toMatchObject({
    ...{ missingMarkers: [0], missingIndicator: true, mean: expect.closeTo(mean, 2) },
    deviation: expect.closeTo(Math.sqrt(logs.reduce((sum, value) => sum + (value - mean) ** 2, 0) / logs.length), 2),
  });
  // Zeros that stand out at one site, but not over all, are values like others.
  const spread = { path: file({ crp: (row) => (row % 100) * 10 }) };
  const both = await agree([{ path: file({ crp }) }, spread, spread, spread], hints);
  const all = Array.from({ length: 200 }, (_, row) => [
    crp(row),
    ...new Array<number>(3).fill((row % 100) * 10),
  ]).flat();
  const expected = all.reduce((sum, value) => sum + Math.log1p(value), 0) / all.length;
  expect(both.columns['crp']).toMatchObject({ missingMarkers: [], mean: expect.closeTo(expected, 1) });
});

test('levels that are texts, of a column of numbers, and dates that are all the same, are told for what they are', async () => {
  const source = { path: file({ age, grade: (row) => row % 3, dob: () => '2020-01-01' }) };
  expect(await refusal(() => agree([source], { grade: { kind: 'categorical', levels: ['low', 1] } }))).toMatch(
    /invalid_input:.*"grade" has the level "low"/,
  );
  const { columns, warnings } = await agree([source], {
    dob: { kind: 'datetime', derive: ['years'], reference: '2000-01-01' },
  });
  expect(columns['dob']).toBeUndefined();
  expect(warnings).toContain('column "dob" is left out: ');
});

test('a unit called like what every object has is a unit like any other', async () => {
  const source = { path: file({ x: age }), units: { x: 'constructor' } };
  expect(await refusal(() => agree([source], { x: { unit: 'kg' } }))).toMatch(
    /is in constructor, for which no conversion to kg/,
  );
  const { columns } = await agree([source], { x: { unit: 'kg', units: { constructor: 2 } } });
  expect(columns['x']).toMatchObject({ unit: 'kg', mean: expect.closeTo(108, 0) });
});

test('no hint and no spec reads the target as a feature: not by an alias, nor as what dates are measured from', async () => {
  const day = (row: number) => `2020-01-${String(10 + (row % 20))}`;
  const source = { path: file({ age, day }) };
  for (const [hints, words] of [
    [{ age: { aliases: [' Y'] } }, /"age".*names "y".*target.*aliases/],
    [
      { day: { kind: 'datetime', reference: { column: 'Y' } } },
      /"day".*measures its dates from "y".*target.*reference/,
    ],
  ] as const satisfies readonly (readonly [FeatureHints, RegExp])[]) {
    const refused = await refusal(() => describeSite(source, { target, hints }));
    expect(refused).toMatch(words);
    expect(refused).toMatch(/^invalid_input/);
    // Statistics of before, or of an agent that does not look.
    const statistics = await describeSite(source, { target });
    const merged = async () => mergeStatistics([{ deviceId: 'a', name: 'a', statistics }], { target, hints });
    expect(await refusal(merged)).toMatch(words);
  }
  const { spec } = await agree([source], { day: { kind: 'datetime', reference: '2020-01-01' } });
  const edited = (change: (column: FeatureColumn) => object) => {
    const changed = {
      ...spec,
      columns: spec.columns.map((column) => ({ ...column, ...change(column) })),
    } as FeatureSpec;
    return refusal(async () => parseFeatureSpec({ ...changed, hash: hashFeatureSpec(changed) }));
  };
  expect(await edited(({ kind }) => (kind === 'datetime' ? { from: { column: 'Y ' } } : {}))).toMatch(
    /invalid_input.*"day".*measured from "y".*target/,
  );
  expect(await edited(({ name }) => (name === 'age' ? { aliases: ['Y'] } : {}))).toMatch(
    /invalid_input.*"age".*read from "y".*target/,
  );
  expect(await edited(({ name }) => (name === 'age' ? { name: 'Y' } : {}))).toMatch(/read from "y".*target/);
});
