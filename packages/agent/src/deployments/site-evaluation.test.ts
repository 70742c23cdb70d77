import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { encodedWidth, mergeStatistics, parseTargetRule } from '@octomil/shared/features';
import {
  encodeModelDocument,
  initialWeights,
  modelDocument,
  parseArchitecture,
  seededRandom,
} from '@octomil/shared/models';
import { encodeWeights } from '@octomil/shared/tensors';
import { InProcessTrainer, runTask } from '@octomil/shared/training';
import { recordingLogger } from '../testing/agent-under-test.js';
import type { OwnModelFiles } from './site-evaluation.js';
import { SiteEvaluator, type SiteEvaluatorOptions } from './site-evaluation.js';

let folder: string;
let table: string;
const trainer = new InProcessTrainer();
const versions: OwnModelFiles[] = [];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'site-evaluation-'));
  table = join(folder, 'site.csv');
  const random = seededRandom(4, 'table');
  const lines = Array.from({ length: 300 }, () => {
    const age = 50 + 10 * random.normal();
    return `${age.toFixed(1)},${age > 52 ? 1 : 0}`;
  });
  await writeFile(table, ['age,sick', ...lines].join('\n'));
  const target = parseTargetRule('sick');
  const statistics = await runTask({ kind: 'describe', source: { path: table }, target });
  const spec = mergeStatistics([{ deviceId: 'd', name: 'one', statistics }], { target, missingMarkers: {} });
  const architecture = parseArchitecture('logistic');
  const width = encodedWidth(spec);
  for (const slope of [3, -3]) {
    const files = {
      versionId: `v${slope}`,
      documentPath: join(folder, `${slope}.json`),
      weightsPath: join(folder, `${slope}.safetensors`),
    };
    const weights = initialWeights(architecture, width, 1).map((tensor) => ({
      ...tensor,
      data: new Float32Array(tensor.data.length).fill(tensor.shape.length === 2 ? slope : 0),
    }));
    await writeFile(files.documentPath, encodeModelDocument(modelDocument(architecture, width, spec)));
    await writeFile(files.weightsPath, encodeWeights(weights));
    versions.push(files);
  }
});
afterAll(async () => {
  await trainer.stop();
  await rm(folder, { recursive: true, force: true });
});

function evaluator(over: Partial<SiteEvaluatorOptions> = {}, models = ['heart-*'], path = table) {
  const audit: Record<string, unknown>[] = [];
  const made = new SiteEvaluator({
    config: {
      policy: { allow: [{ name: 'rule', federations: ['f'], models, dataSets: ['patients'] }] },
      dataSets: { other: { path: join(folder, 'absent.csv') }, patients: { path } },
    },
    trainer,
    audit: { record: async (entry) => void audit.push({ ...entry }) },
    questions: { count: async () => undefined },
    digestOf: async () => 'digest',
    logger: recordingLogger([]),
    ...over,
  });
  const [current, previous] = versions as [OwnModelFiles, OwnModelFiles];
  return { audit, run: () => made.evaluate('heart-risk', current, previous, new AbortController().signal) };
}

test('both versions on the same held-out rows of the data set that a rule names, written down before it leaves', async () => {
  const { run, audit } = evaluator();
  const { evaluation, baseline } = await run();
  expect(evaluation?.count).toBeGreaterThan(30);
  expect(evaluation?.count).toBeLessThan(90);
  expect(baseline?.count).toBe(evaluation?.count);
  expect(evaluation?.auc).toBeGreaterThan(0.95);
  expect(baseline?.auc).toBeLessThan(0.05);
  expect(audit).toMatchObject([
    { kind: 'evaluation', model: 'heart-risk', rule: 'rule', dataSet: 'patients', details: { versionId: 'v3' } },
  ]);
});

test('nothing without a rule, with too few rows, with questions used up, or with data that cannot be read', async () => {
  const few = join(folder, 'few.csv');
  await writeFile(few, ['age,sick', ...Array.from({ length: 20 }, (_, row) => `${40 + row},${row % 2}`)].join('\n'));
  const questions = {
    count: async () => {
      throw new OctomilError('policy_denied', 'too many questions');
    },
  };
  const cases = [
    evaluator({}, ['lungs']),
    evaluator({}, ['*'], few),
    evaluator({ questions }),
    evaluator({}, ['*'], join(folder, 'absent.csv')),
  ];
  for (const { run, audit } of cases) {
    expect(await run()).toEqual({ evaluation: null, baseline: null });
    expect(audit).toEqual([]);
  }
});
