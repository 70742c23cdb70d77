import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { encodeModelDocument, modelDocument, parseArchitecture } from '@octomil/shared/models';
import { encodeWeights } from '@octomil/shared/tensors';
import { convertHere, planConversions } from './local-conversion.js';
import { documentBeside, type LocalFile, modelFilesAt } from './local-files.js';

const DOCUMENT = encodeModelDocument(modelDocument(parseArchitecture({ name: 'logistic' }), 2));
const WEIGHTS = encodeWeights([{ name: 'odd/kernel', shape: [2], data: new Float32Array(2) }]);

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-local-files-'));
});
afterEach(() => rm(folder, { recursive: true }));

const put = (name: string, content: Uint8Array | string): Promise<void> => writeFile(join(folder, name), content);

test('a folder gives its model files, documents first, by their bytes and not their names', async () => {
  await put('a.safetensors', WEIGHTS);
  await put('b.json', DOCUMENT);
  await put('package.json', '{}');
  await put('notes.onnx', 'not a model');
  await put('.hidden.safetensors', WEIGHTS);
  const files = await modelFilesAt(folder);
  expect(files.map(({ path, format }) => [path, format])).toEqual([
    [join(folder, 'b.json'), 'model.json'],
    [join(folder, 'a.safetensors'), 'safetensors'],
  ]);
  await put('c.safetensors', WEIGHTS);
  await expect(modelFilesAt(folder)).rejects.toMatchObject({
    code: 'invalid_input',
    reason: expect.stringMatching(/two safetensors files, a\.safetensors and c\.safetensors/),
  });
});

test("a document belongs to weights by their name, else by being the folder's", async () => {
  await put('heart.safetensors', WEIGHTS);
  const weights = join(folder, 'heart.safetensors');
  expect(await documentBeside(weights)).toBeUndefined();
  await put('model.json', '{"name": "not ours"}');
  expect(await documentBeside(weights)).toBeUndefined();
  await put('model.json', DOCUMENT);
  expect(await documentBeside(weights)).toBe(join(folder, 'model.json'));
  await put('heart.json', DOCUMENT);
  expect(await documentBeside(weights)).toBe(join(folder, 'heart.json'));
});

test.each([
  [['safetensors'], ['onnx', 'pytorch'], true, ['pytorch', 'onnx'], []],
  [['safetensors'], ['onnx', 'pytorch'], false, ['pytorch'], ['onnx']],
  [['pytorch', 'onnx'], ['onnx', 'tflite', 'tflite'], true, [], ['tflite']],
  [['onnx'], ['safetensors'], true, [], ['safetensors']],
  [['model.json', 'safetensors'], [], true, [], []],
] as const)('of %j, %j with a document %s: here %j, there %j', (have, asked, hasDocument, here, there) => {
  const files = have.map((format): LocalFile => ({ path: format, format, sizeBytes: 1 }));
  expect(planConversions(files, asked, hasDocument)).toMatchObject({ here, there });
});

test('what cannot be made here of these weights is left to the coordinator, with the reason', async () => {
  await put('odd.safetensors', WEIGHTS);
  await put('odd.json', DOCUMENT);
  const [weights] = await modelFilesAt(join(folder, 'odd.safetensors'));
  if (weights === undefined) throw new TypeError('no file');
  const plan = { here: ['onnx', 'npz'] as const, from: weights, there: [] };
  const { files, failed } = await convertHere(plan, join(folder, 'odd.json'), folder);
  expect(files.map(({ format }) => format)).toEqual(['npz']);
  expect([...failed.keys()]).toEqual(['onnx']);
});
