import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { encodedWidth, type FeatureSpec, sealFeatureSpec } from '@octomil/shared/features';
import { writeOnnx } from '@octomil/shared/formats';
import {
  type Architecture,
  encodeModelDocument,
  initialWeights,
  modelDocument,
  parseArchitecture,
} from '@octomil/shared/models';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { encodeWeights, type NamedTensor } from '@octomil/shared/tensors';
import { InProcessTrainer, type RunOptions, type Trainer } from '@octomil/shared/training';
import { AgentReports } from './agent-reports.js';
import { openPredictor, type PredictionAnswer, type Predictor } from './predictor.js';
import { startServe } from './start-serve.js';
import { greyPng } from './testing/grey-png.js';

let stateDir: string;
const open: { stop(): Promise<void> }[] = [];
beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'octomil-predictor-'));
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.stop()));
  await rm(stateDir, { recursive: true, force: true });
});

const column = { missingMarkers: [], missingIndicator: false };
const target = { values: 'text', mean: 0, deviation: 1, missingMarkers: [] } as const;
function spec(
  given: Pick<FeatureSpec['target'], 'rule' | 'output' | 'classes'> & Partial<FeatureSpec['target']>,
): FeatureSpec {
  return sealFeatureSpec({
    formatVersion: 1,
    layout: 'table',
    columns: [
      { ...column, kind: 'numeric', name: 'Age', mean: 50, deviation: 10 },
      { ...column, kind: 'categorical', name: 'colour', levels: ['red', 'blue'], values: 'text' },
    ],
    target: { ...target, ...given },
  });
}

/** Activates a version whose inputs [age, red, blue, other] have these weights and this bias. */
async function activate(
  version: string,
  featureSpec: FeatureSpec,
  weights: readonly number[],
  options: { readonly onnx?: boolean } = {},
): Promise<void> {
  const output = featureSpec.target.output;
  const architecture: Architecture = parseArchitecture({ name: 'logistic', output });
  const width = encodedWidth(featureSpec);
  const document = modelDocument(architecture, width, featureSpec);
  const tensors: NamedTensor[] = initialWeights(architecture, width, 1).map((tensor) => ({
    ...tensor,
    data: tensor.shape.length === 2 ? Float32Array.from(weights.slice(0, -1)) : Float32Array.from(weights.slice(-1)),
  }));
  const folder = join(stateDir, 'deployed/m1');
  await mkdir(join(folder, version), { recursive: true });
  await writeFile(join(folder, version, 'model.json'), encodeModelDocument(document));
  await writeFile(join(folder, version, 'weights.safetensors'), encodeWeights(tensors));
  const artifacts = [
    { format: 'model.json', path: `${version}/model.json` },
    { format: 'safetensors', path: `${version}/weights.safetensors` },
  ];
  if (options.onnx) {
    await writeFile(join(folder, version, 'model.onnx'), Buffer.concat([...writeOnnx(document, tensors).parts()]));
    artifacts.push({ format: 'onnx', path: `${version}/model.onnx` });
  }
  const pointer = {
    formatVersion: 1,
    modelId: 'm1',
    modelName: 'heart-risk',
    active: { versionId: version, version: `1.0.${version}`, artifacts },
    previous: null,
  };
  await writeFile(join(folder, 'next.json'), JSON.stringify(pointer));
  await rename(join(folder, 'next.json'), join(folder, 'active.json'));
}

function predictor(trainer: Trainer = new InProcessTrainer(), useOnnx = false): Predictor {
  const opened = openPredictor({ stateDir, trainer, useOnnx });
  open.push(opened);
  return opened;
}

const binary = (): FeatureSpec => spec({ rule: { column: 'y' }, output: { kind: 'binary' }, classes: ['well', 'ill'] });

test('rows by name, by order, and by half are encoded as in training, and classes have their names', async () => {
  await activate('1', binary(), [1, 2, 0, 0, -1]);
  const answer = await predictor().predict('heart-risk', [
    { AGE: '60', Colour: 'Red' },
    [60, 'red'],
    { age: null, colour: 'green' },
  ]);
  expect(answer).toMatchObject({
    model: 'heart-risk',
    modelId: 'm1',
    version: '1.0.1',
    versionId: '1',
    engine: 'tfjs',
  });
  // (60 − 50) / 10 + 2 − 1 = 2; a missing age is the mean, an unknown colour its own input.
  const sigmoid = (logit: number): number => 1 / (1 + Math.exp(-logit));
  const [named, ordered, half] = answer.predictions as {
    class: string;
    probability: number;
    probabilities: Record<string, number>;
  }[];
  expect(named?.class).toBe('ill');
  expect(named?.probability).toBeCloseTo(sigmoid(2), 5);
  expect(named?.probabilities['well']).toBeCloseTo(1 - sigmoid(2), 5);
  expect(ordered).toEqual(named);
  expect(half).toMatchObject({ class: 'well' });
  expect(half?.probability).toBeCloseTo(1 - sigmoid(-1), 5);
});

test('a name that no column has and a value that no level has are answered with a warning', async () => {
  await activate('1', binary(), [1, 2, 0, 0, -1]);
  const { warnings } = await predictor().predict('heart-risk', [
    { agee: 60, colour: 'Red' },
    { AGE: 50, Colour: 'bleu', agee: 1, y: 'ill' },
    { age: 1e9, colour: null },
  ]);
  expect(warnings).toEqual([
    'row 0 and 1 more: the model has no column "agee", so it is not read; did you mean "Age"?',
    'row 1: "y" is what the model predicts; it is not read',
    'row 1: "bleu" in "colour" is no value that the model learned; it counts as any other value; did you mean "blue"?',
    expect.stringMatching(/^row 2: 1000000000 in "Age" is more than 10 standard deviations/),
  ]);
  expect((await predictor().predict('m1', [{ age: 60, colour: 'blue' }, [null, '']])).warnings).toEqual([]);
  const names = Object.fromEntries(Array.from({ length: 3_000 }, (_, index) => [`n${index}`, 1]));
  const many = await predictor().predict('m1', [{ age: 1, ...names }]);
  expect(many.warnings).toHaveLength(21);
});

test('a regression answers in the units of its target, a comparison with true and false', async () => {
  await activate(
    '1',
    spec({
      rule: { column: 'cost' },
      output: { kind: 'regression' },
      classes: [],
      values: 'number',
      mean: 100,
      deviation: 20,
    }),
    [1, 0, 0, 0, 0.5],
  );
  expect((await predictor().predict(undefined, [{ age: 60 }])).predictions).toEqual([{ value: 130 }]);
  await activate(
    '2',
    spec({
      rule: { column: 'num', comparison: '>', value: 0 },
      output: { kind: 'binary' },
      classes: [],
      values: 'number',
    }),
    [5, 0, 0, 0, 0],
  );
  expect((await predictor().predict(undefined, [{ age: 90 }])).predictions[0]).toMatchObject({ class: 'true' });
});

test('an activation changes what is served at once, and what runs ends on the version it began with', async () => {
  await activate('1', binary(), [0, 0, 0, 0, 9]);
  const inner = new InProcessTrainer();
  const gate = Promise.withResolvers<void>();
  let held = false;
  const trainer: Trainer = {
    run: async (task, options?: RunOptions) => {
      held = true;
      await gate.promise;
      return inner.run(task, options);
    },
    stop: () => inner.stop(),
  };
  const serving = predictor(trainer);
  const before = serving.predict('m1', [{ age: 1 }]);
  while (!held) await new Promise((resolve) => setTimeout(resolve, 1));
  await activate('2', binary(), [0, 0, 0, 0, -9]);
  const after = serving.predict('m1', [{ age: 1 }]);
  gate.resolve();
  const classOf = ({ versionId, predictions: [first] }: PredictionAnswer): unknown => [
    versionId,
    (first as { class: string }).class,
  ];
  expect([classOf(await before), classOf(await after)]).toEqual([
    ['1', 'ill'],
    ['2', 'well'],
  ]);
});

test('what is no model, no row, or no number is said so', async () => {
  const serving = predictor();
  await expect(serving.predict('heart-risk', [{}])).rejects.toMatchObject({ code: 'model_not_found' });
  await activate('1', binary(), [0, 0, 0, 0, 0]);
  for (const row of [{ age: 'old' }, { other: 1 }, [1], { age: [1] }]) {
    await expect(serving.predict('heart-risk', [row])).rejects.toMatchObject({ code: 'invalid_input' });
  }
  await expect(serving.predict('heart-rsk', [{ age: 1 }])).rejects.toMatchObject({ details: { near: ['heart-risk'] } });
  await writeFile(join(stateDir, 'deployed/m1/active.json'), '{"formatVersion":1,');
  await expect(serving.predict('heart-risk', [{ age: 1 }])).rejects.toMatchObject({ code: 'model_not_found' });
});

test('the server predicts over HTTP, and the agent hears how it went', async () => {
  await activate('1', binary(), [1, 2, 0, 0, -1]);
  const heard: unknown[] = [];
  const agent = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => {
      body += text;
    });
    request.on('end', () => {
      heard.push(request.headers.authorization, request.url, JSON.parse(body));
      response.end('{"counted":1,"ignored":0}');
    });
  });
  await new Promise<void>((resolve) => agent.listen(0, '127.0.0.1', resolve));
  const agentUrl = `http://127.0.0.1:${(agent.address() as AddressInfo).port}`;
  await writeFile(join(stateDir, 'local-api.json'), JSON.stringify({ url: agentUrl, token: 'oal_x' }));
  const server = await startServe({ models: {}, predictor: predictor(), port: 0 });
  const ask = (body: object): Promise<Response> =>
    fetch(`${server.url}/v1/predict`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
  expect(await (await ask({ model: 'heart-risk', inputs: [{ age: 60, colour: 'red' }] })).json()).toMatchObject({
    model: 'heart-risk',
    version: '1.0.1',
    predictions: [{ class: 'ill' }],
  });
  const bad = await ask({ model: 'heart-risk', inputs: [{ age: 'old' }] });
  expect([bad.status, ((await bad.json()) as { error: { code: string } }).error.code]).toEqual([400, 'bad_request']);
  expect((await ask({ inputs: [] })).status).toBe(400);
  expect((await ask({ model: 'none', inputs: [{}] })).status).toBe(404);
  for (const path of ['chat/completions', 'embeddings']) {
    const generating = await fetch(`${server.url}/v1/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'auto', messages: [{ role: 'user', content: 'Hi' }], input: 'Hi' }),
    });
    expect([generating.status, await generating.text()]).toEqual([
      404,
      expect.stringContaining('start the server with'),
    ]);
  }
  const stopping = new InProcessTrainer();
  stopping.run = () => Promise.reject(new OctomilError('cancelled', 'the server stops'));
  const stopped = predictor(stopping);
  await expect(stopped.predict('heart-risk', [{ age: 60 }])).rejects.toMatchObject({ code: 'cancelled' });
  await stopped.stop();
  await server.stop();
  agent.close();
  agent.closeAllConnections();
  // What is wrong with a row is not the model's failure.
  expect(heard).toEqual([
    'Bearer oal_x',
    '/v1/inference-report',
    { reports: [{ model_id: 'm1', version_id: '1', latency_ms: expect.any(Number), failed: false }] },
  ]);
});

test('a picture is a row of its own, and one that is none is said to be', async () => {
  const { target: ill } = binary();
  const image = {
    kind: 'image',
    name: 'image',
    height: 2,
    width: 2,
    channels: 1,
    mean: [0.5],
    deviation: [0.5],
  } as const;
  await activate('1', sealFeatureSpec({ ...spec(ill), columns: [{ ...column, ...image }] }), [1, 1, 1, 1, 0]);
  const { predictions } = await predictor().predict('m1', [
    [greyPng(255).toString('base64')],
    { IMAGE: greyPng(1).toString('base64') },
  ]);
  expect(predictions).toMatchObject([{ class: 'ill' }, { class: 'well' }]);
  await expect(predictor().predict('m1', [{ image: 'scan.png' }])).rejects.toMatchObject({ code: 'invalid_input' });
});

test('reports are forgotten where no agent listens', async () => {
  const reports = new AgentReports({ stateDir, clock: systemClock, logger: silentLogger });
  for (let index = 0; index < 2000; index += 1)
    reports.add({ modelId: 'm', versionId: 'v', latencyMs: 1, failed: false });
  await reports.flush();
});

const withOnnx = (() => {
  try {
    createRequire(import.meta.url).resolve('onnxruntime-node');
    return test;
  } catch {
    return test.skip;
  }
})();
withOnnx('a version with an ONNX file gives by it what tfjs gives (needs onnxruntime-node)', async () => {
  const rows = [{ age: 61, colour: 'red' }, { age: 20 }];
  for (const [version, featureSpec] of [
    ['1', binary()],
    [
      '2',
      spec({
        rule: { column: 'cost' },
        output: { kind: 'regression' },
        classes: [],
        values: 'number',
        mean: 100,
        deviation: 20,
      }),
    ],
  ] as const) {
    await activate(version, featureSpec, [0.3, 0.2, 0.1, 0.4, -0.1], { onnx: true });
    const onnx = await predictor(new InProcessTrainer(), true).predict('m1', rows);
    const tfjs = await predictor().predict('m1', rows);
    expect([onnx.engine, tfjs.engine]).toEqual(['onnx', 'tfjs']);
    const numbers = ({ predictions }: PredictionAnswer): number[] =>
      predictions.map((one) => ('value' in one ? one.value : one.probability));
    numbers(onnx).forEach((value, index) => {
      expect(value).toBeCloseTo(numbers(tfjs)[index] ?? Number.NaN, 4);
    });
  }
  await writeFile(join(stateDir, 'deployed/m1/2/model.onnx'), 'no model');
  await expect(predictor(new InProcessTrainer(), true).predict('m1', rows)).rejects.toMatchObject({
    code: 'inference_failed',
  });
});
