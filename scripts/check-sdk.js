// What people do with @octomil/sdk, done to what was built: require() and import with types, and a page without Node.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createContext, runInContext } from 'node:vm';
import { buildCommonJs, bundleForBrowsers } from './build-sdk.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

const COMMON_JS = `
const assert = require('node:assert');
const { Client, FederatedClient, Federation, ModelRegistry, OctomilClientError, OctoAI } = require('@octomil/sdk');
const { assignTiers, checkDeterministic, QueryRouter } = require('@octomil/sdk');
const registry = new ModelRegistry({ apiKey: 'edg_x', apiBase: 'http://127.0.0.1:9/api/v1', maxAttempts: 1 });
assert.ok(new Client({ apiKey: 'edg_x' }).federation('x') instanceof Federation);
const client = new FederatedClient({ apiKey: 'edg_x', apiBase: 'http://127.0.0.1:9/api/v1', deviceIdentifier: 'x', maxAttempts: 1 });
const code = (promise) => promise.then(() => 'none', (error) => error instanceof OctomilClientError && error.code);
assert.equal(checkDeterministic('what is 2+2?').answer, '4');
assert.equal(new QueryRouter(assignTiers(['small', 'large'])).route('hello').modelName, 'small');
const nowhere = new Client({ apiKey: 'edg_x', apiBase: 'http://127.0.0.1:9/api/v1', localUrl: false, maxAttempts: 1 });
const here = nowhere.predict('none.gguf', { input: 'x' });
const there = new OctoAI({ apiBase: 'http://127.0.0.1:9/v1', maxAttempts: 1 }).textGen;
const chat = there.createChatCompletion({ model: 'm', messages: [{ role: 'user', content: 'x' }] });
Promise.all([code(registry.listModels()), code(client.register()), code(here), code(chat)]).then((codes) => console.log(codes.join()));
`;

const TYPED = `
const registry = new sdk.ModelRegistry({ apiKey: 'edg_x', authTokenProvider: async () => 'oda_x' });
export async function use(): Promise<string> {
  const model: sdk.Model = await registry.ensureModel({ name: 'm', framework: 'pytorch', useCase: 'image_classification' });
  const rollout: sdk.Rollout = await registry.createRollout({ modelId: model.id, version: '1.0.0', rolloutPercentage: 10 });
  for await (const device of registry.rollouts.affectedDevices({ modelId: model.id, rolloutId: rollout.id })) {
    const id: string = device.deviceId;
    if (id === '') return id;
  }
  try {
    await registry.publishVersion({ modelId: model.id, version: '1.0.0' });
  } catch (error) {
    if (error instanceof sdk.OctomilClientError && error.code === 'version_not_found') return error.reason;
  }
  // @ts-expect-error: a version is text
  await registry.publishVersion({ modelId: model.id, version: 1 });
  const client = new sdk.Client({ apiKey: 'edg_x', route: 'cloud' });
  const prediction: sdk.Prediction = await client.predict('m', { input: 'x', maxTokens: 1 });
  if (prediction.metrics.route.target === 'device') return prediction.text;
  for await (const token of client.streamPredict('m', 'x')) if (token.done) return token.provider ?? '';
  const completion = await new sdk.OctoAI().textGen.createChatCompletion({ model: 'm', messages: [] });
  const content: string | null | undefined = completion.choices[0]?.message.content;
  const decision: sdk.RoutingDecision = new sdk.QueryRouter(sdk.assignTiers(['m'])).route('x');
  // @ts-expect-error: there is no such tier
  if (decision.tier === 'slow') return content ?? '';
  const status: sdk.RolloutStatus = rollout.status;
  // @ts-expect-error: there is no such state
  return status === 'gone' ? '' : status;
}
`;

function commonJs(folder) {
  writeFileSync(join(folder, 'consumer.cjs'), COMMON_JS);
  const said = execFileSync(process.execPath, [join(folder, 'consumer.cjs')], { encoding: 'utf8', timeout: 30_000 });
  if (said.trim() !== 'network_unavailable,network_unavailable,runtime_unavailable,network_unavailable')
    throw new TypeError(`require('@octomil/sdk') said ${said}`);
}

/** A program that never disposes of anything: the model's process must not keep it from ending. */
const ON_DEVICE = `
import { Client } from '@octomil/sdk';
const client = new Client({ apiKey: 'edg_x', localUrl: false, reportEvents: false });
const { text, metrics } = await client.predict('tiny.gguf', { input: 'Federated', maxTokens: 4 });
console.log(text === '' ? 'nothing' : metrics.route.engine);
`;

async function onDevice(folder) {
  const { hasLlama, makeTinyGguf } = await import('../packages/inference/dist/engine/testing/index.js');
  if (!hasLlama()) {
    console.log('node-llama-cpp is not installed: models on the device are not tried');
    return;
  }
  await makeTinyGguf({ kind: 'bigram', path: join(folder, 'tiny.gguf') });
  writeFileSync(join(folder, 'on-device.mjs'), ON_DEVICE);
  const options = { cwd: folder, encoding: 'utf8', timeout: 60_000 };
  const said = execFileSync(process.execPath, [join(folder, 'on-device.mjs')], options);
  if (said.trim() !== 'llama.cpp') throw new TypeError(`a model on the device said ${said}`);
}

/** The examples of docs/sdk.md as the one program that it says they are. */
function documented() {
  const text = readFileSync(join(root, 'docs/sdk.md'), 'utf8');
  return Array.from(text.matchAll(/^```ts\n(.*?)^```$/gms), ([, code]) => code).join('\n');
}

function types(folder) {
  writeFileSync(join(folder, 'consumer.cts'), `import sdk = require('@octomil/sdk');\n${TYPED}`);
  writeFileSync(join(folder, 'consumer.mts'), `import * as sdk from '@octomil/sdk';\n${TYPED}`);
  writeFileSync(join(folder, 'documented.mts'), documented());
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  for (const module of ['node16', 'nodenext']) {
    const options = ['--noEmit', '--strict', '--target', 'es2022', '--module', module, '--skipLibCheck'];
    const files = ['consumer.cts', 'consumer.mts', 'documented.mts'].map((name) => join(folder, name));
    const { status, stdout } = spawnSync(process.execPath, [tsc, ...options, '--types', 'node', ...files], {
      encoding: 'utf8',
      cwd: folder,
      timeout: 120_000,
    });
    if (status !== 0) throw new TypeError(`types for ${module}:\n${stdout}`);
  }
}

/** What a page has; nothing of Node. */
const IN_A_PAGE = [
  ...['AbortController', 'AbortSignal', 'Blob', 'FormData', 'Headers', 'ReadableStream', 'Request', 'Response'],
  ...['TextDecoder', 'TextEncoder', 'URL', 'URLSearchParams', 'clearTimeout', 'crypto', 'fetch', 'setTimeout'],
];

const PAGE = `(async () => {
  const client = new octomil.Client({ apiKey, apiBase });
  const model = await client.registry.ensureModel({ name: 'from a page' });
  const content = new Blob([new Uint8Array([1, 2, 3])]);
  await client.registry.uploadVersion({ modelId: model.id, version: '1.0.0', fileName: 'model.onnx', content });
  await client.registry.publishVersion({ modelId: model.id, version: '1.0.0' });
  const { bytes } = await client.registry.pullModel({ model: 'from a page' });
  const code = (promise) => promise.then(() => 'none', (error) => error instanceof octomil.OctomilClientError && error.code);
  return JSON.stringify([
    typeof process + typeof Buffer + typeof require,
    [...bytes],
    (await client.registry.listModels()).length,
    await code(client.registry.model('nobody')),
    await code(client.registry.uploadVersionFromPath({ modelId: model.id, version: '1.1.0', filePath: 'x' })),
    await code(client.registry.pullModelToPath({ model: 'from a page', path: 'x' })),
    await code(client.predict('from-a-page', { input: 'x', route: 'device' })),
    octomil.checkDeterministic('what is 2+2?').answer,
  ]);
})()`;
const FROM_PAGE = [
  'undefinedundefinedundefined',
  [1, 2, 3],
  1,
  'model_not_found',
  'runtime_unavailable',
  'runtime_unavailable',
  'runtime_unavailable',
  '4',
];

async function page() {
  const bundle = await bundleForBrowsers();
  const { startCoordinator } = await import('../packages/coordinator/dist/index.js');
  const coordinator = await startCoordinator({ database: 'memory', environment: { OCTOMIL_LOG_LEVEL: 'error' } });
  try {
    const globals = Object.fromEntries(IN_A_PAGE.map((name) => [name, globalThis[name]]));
    const apiBase = `${coordinator.restUrl}/api/v1`;
    const context = createContext({ ...globals, apiBase, apiKey: coordinator.bootstrapApiKey });
    runInContext(bundle, context);
    const said = await runInContext(PAGE, context);
    if (said !== JSON.stringify(FROM_PAGE)) throw new TypeError(`a page without Node answered ${said}`);
  } finally {
    await coordinator.stop();
  }
}

const folder = mkdtempSync(join(tmpdir(), 'octomil-sdk-'));
try {
  await buildCommonJs();
  mkdirSync(join(folder, 'node_modules/@octomil'), { recursive: true });
  for (const name of ['sdk', 'shared', 'inference']) {
    symlinkSync(join(root, 'packages', name), join(folder, 'node_modules/@octomil', name), 'junction');
  }
  symlinkSync(join(root, 'node_modules/@types'), join(folder, 'node_modules/@types'), 'junction');
  commonJs(folder);
  types(folder);
  await onDevice(folder);
  await page();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
