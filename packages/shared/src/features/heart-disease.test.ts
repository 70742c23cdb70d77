import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { columnCoverage } from './column-coverage.js';
import { describeSite } from './describe-site.js';
import { encodedWidth } from './encode.js';
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
  console.log(JSON.stringify(sites,null,1).slice(0,6000), JSON.stringify(spec, null, 1), warnings, JSON.stringify(columnCoverage(sites, spec)));
  for (const name of SITES) {
    const d = await loadDataset({ path: `${FOLDER}${name}.csv` }, spec, { salt: 's', shareRatio: 0.2 });
    console.log(name, d.train.rows, d.heldOut.rows, d.droppedRows, d.train.width, d.train.x.some(Number.isNaN), d.train.y.reduce((a,b)=>a+b,0));
  }
});
