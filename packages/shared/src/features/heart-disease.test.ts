import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { columnCoverage } from './column-coverage.js';
import { encodedWidth } from './column-width.js';
import { describeSite } from './describe-site.js';
import { loadDataset } from './load-dataset.js';
import { mergeStatistics, type SiteEntry } from './merge-statistics.js';
import { parseFeatureSpec } from './parse-spec.js';
import { parseTargetRule } from './target-rule.js';

const FOLDER = fileURLToPath(new URL('../../../../../shared/data/heart-disease/', import.meta.url));
const SITES = ['cleveland', 'hungarian', 'switzerland', 'va'];
const heartTest = existsSync(FOLDER) ? test : test.skip;

heartTest('four hospitals with different columns and codings agree on one spec and encode by it', async () => {
  const target = parseTargetRule('num>0');
  const sites: SiteEntry[] = [];
  for (const name of SITES) {
    sites.push({ deviceId: name, name, statistics: await describeSite({ path: `${FOLDER}${name}.csv` }, { target }) });
  }
  const warnings: string[] = [];
  const spec = mergeStatistics(sites, { target, onWarning: (warning) => warnings.push(warning) });
  expect(parseFeatureSpec(JSON.parse(JSON.stringify(spec)))).toEqual(spec);

  const columns = new Map(spec.columns.map((column) => [column.name, column]));
  expect([...columns.keys()].sort()).toEqual(
    'age ca chol cp exang fbs oldpeak restecg sex slope thal thalach trestbps'.split(' '),
  );
  // One hospital wrote 0 for every cholesterol, another for a quarter of them.
  expect(columns.get('chol')).toMatchObject({ kind: 'numeric', missingMarkers: [0], missingIndicator: true });
  expect(warnings.join()).toContain('"chol"');
  expect(columns.get('sex')?.kind).toBe('boolean');
  expect(columns.get('thal')).toMatchObject({ kind: 'categorical', levels: ['3', '6', '7'], missingIndicator: true });
  expect(columns.get('age')).toMatchObject({ kind: 'numeric', missingIndicator: false });
  // Over the 718 cholesterols that were measured.
  const chol = columns.get('chol');
  expect(chol?.kind === 'numeric' && Math.abs(chol.mean - 246.83)).toBeLessThan(1);
  expect(chol?.kind === 'numeric' && Math.abs(chol.deviation - 58.5)).toBeLessThan(1);

  const coverage = columnCoverage(sites, spec).find(({ name }) => name === 'ca');
  expect(coverage?.sites.map(({ present }) => present)).toEqual([true, false, false, false]);

  const rows = [303, 294, 123, 200];
  for (const [index, name] of SITES.entries()) {
    const { train, heldOut, droppedRows } = await loadDataset({ path: `${FOLDER}${name}.csv` }, spec, {
      salt: 'fixed',
      shareRatio: 0.2,
    });
    expect(train.rows + heldOut.rows + droppedRows).toBe(rows[index]);
    expect(droppedRows).toBe(0);
    expect(heldOut.rows).toBeGreaterThan(0);
    for (const data of [train, heldOut]) {
      const { rows, width, y } = data;
      const x = await data.readRange(0, rows);
      expect(width).toBe(encodedWidth(spec));
      expect(x.length).toBe(rows * width);
      expect(x.every(Number.isFinite)).toBe(true);
      expect(y.every((value) => value === 0 || value === 1)).toBe(true);
    }
  }
});
