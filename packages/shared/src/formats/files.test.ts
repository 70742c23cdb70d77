import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { encodeModelDocument, initialWeights, modelDocument, parseArchitecture } from '@octomil/shared/models';
import { encodeWeights, serializeSafetensors } from '@octomil/shared/tensors';
import {
  checkFile,
  convertFile,
  convertModel,
  formatOfFile,
  MODEL_FORMATS,
  readNpy,
  readTorchZip,
  writeNpy,
} from './index.js';
import { openStoredZip } from './stored-zip.js';

const document = modelDocument(parseArchitecture({ name: 'mlp', hidden: [3] }), 4);
const weights = initialWeights(document.architecture, 4, 7);
const safetensors = encodeWeights(weights);
let folder: string;
const path = (name: string): string => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-formats-'));
  await writeFile(path('weights.safetensors'), safetensors);
  await writeFile(path('model.json'), encodeModelDocument(document));
});
afterAll(() => rm(folder, { recursive: true }));

test('there and back again, and the digest of what was written', async () => {
  const torch = await convertFile({ inputPath: path('weights.safetensors'), to: 'pytorch', outputPath: path('w.pt') });
  const written = await readFile(path('w.pt'));
  expect(torch).toEqual({
    from: 'safetensors',
    to: 'pytorch',
    sizeBytes: written.length,
    sha256: createHash('sha256').update(written).digest('hex'),
    parameters: 4 * 3 + 3 + 3 + 1,
  });
  await convertFile({ inputPath: path('w.pt'), to: 'safetensors', outputPath: path('back.safetensors') });
  expect(new Uint8Array(await readFile(path('back.safetensors')))).toEqual(safetensors);
  expect((await readTorchZip(path('w.pt'))).tensors.map(({ name }) => name)).toEqual(weights.map(({ name }) => name));
});

test('ONNX by document; npz entries are arrays', async () => {
  const request = {
    inputPath: path('weights.safetensors'),
    outputPath: path('w.onnx'),
    documentPath: path('model.json'),
  };
  await convertFile({ ...request, to: 'onnx' });
  expect((await checkFile(path('w.onnx'))).format).toBe('onnx');
  await convertFile({ inputPath: path('w.pt'), to: 'npz', outputPath: path('w.npz') });
  const zip = await openStoredZip(path('w.npz'));
  expect(readNpy(await zip.read('dense_1/bias.npy'))).toMatchObject({ shape: [3], dtype: 'f4' });
  zip.close();
});

test('what cannot be converted says what can, and leaves nothing', async () => {
  const from = { inputPath: path('weights.safetensors'), outputPath: path('nothing') };
  await expect(convertFile({ ...from, to: 'onnx' })).rejects.toMatchObject({ code: 'conversion_failed' });
  await expect(convertFile({ ...from, to: 'tflite' })).rejects.toThrow(/safetensors, pytorch, onnx, npz/);
  await expect(convertFile({ ...from, inputPath: path('model.json'), to: 'pytorch' })).rejects.toThrow(/is model.json/);
  await expect(convertFile({ ...from, inputPath: path('absent'), to: 'pytorch' })).rejects.toMatchObject({
    code: 'not_found',
  });
  expect((await readdir(folder)).filter((name) => name.startsWith('nothing'))).toEqual([]);
});

test('the check names tensors, counts parameters and finds what is not finite', async () => {
  expect(await checkFile(path('weights.safetensors'))).toMatchObject({
    format: 'safetensors',
    sizeBytes: safetensors.length,
    parameters: 19,
    finite: true,
    problems: [],
    tensors: expect.arrayContaining([{ name: 'dense_1/kernel', dtype: 'F32', shape: [4, 3], parameters: 12 }]),
  });
  expect(await checkFile(path('w.pt'))).toMatchObject({
    format: 'pytorch',
    parameters: 19,
    finite: true,
    problems: [],
  });
  expect(await checkFile(path('model.json'))).toMatchObject({ format: 'model.json', parameters: 19, problems: [] });

  const halves = new Uint8Array(Uint16Array.of(0x3c00, 0x7c00).buffer);
  await writeFile(
    path('bad.safetensors'),
    serializeSafetensors([{ name: 'w', dtype: 'F16', shape: [2], bytes: halves }]),
  );
  expect(await checkFile(path('bad.safetensors'))).toMatchObject({
    finite: false,
    problems: [expect.stringContaining('"w"')],
  });
  await writeFile(path('bad.npy'), writeNpy({ shape: [1], data: Float32Array.of(Number.NaN) }));
  expect(await checkFile(path('bad.npy'))).toMatchObject({ format: 'npy', finite: false });
  await writeFile(path('cut.safetensors'), safetensors.subarray(0, safetensors.length - 1));
  expect((await checkFile(path('cut.safetensors'))).problems).toHaveLength(1);
  await writeFile(path('model.pkl'), Buffer.from('\x80\x04.', 'latin1'));
  expect(await checkFile(path('model.pkl'))).toMatchObject({
    format: 'sklearn',
    problems: [expect.stringContaining('never opened')],
  });
  await expect(checkFile(path('absent'))).rejects.toMatchObject({ code: 'not_found' });
});

test.each<[string, string, string | undefined]>([
  ['m.onnx', '\x08\x08\x12\x07octomil:', 'onnx'],
  ['m.bin', '\x08\x07\x3a\x10', 'onnx'],
  ['m.mlmodel', '\x08\x04\x12\x20', 'coreml'],
  ['m.h5', '\x89HDF\r\n\x1a\n', 'tensorflow'],
  ['m.tflite', '\x1c\x00\x00\x00TFL3', 'tflite'],
  ['m.gguf', 'GGUF\x03\x00', 'gguf'],
  ['m.pt', '\x80\x02\x8a\x0al', 'pytorch'],
  ['m.pkl', '\x80\x04\x95', 'sklearn'],
  ['m.json', '{"learner":{"attributes"', 'xgboost'],
  ['m.ubj', '{L\x00\x00\x00\x00\x00\x00\x00\x07learner', 'xgboost'],
  ['m.pt', `PK\x03\x04${'\x00'.repeat(22)}\x10\x00\x00\x00archive/data.pkl`, 'pytorch'],
  ['m.zip', `PK\x03\x04${'\x00'.repeat(22)}\x05\x00\x00\x00w.npy`, 'npz'],
  ['m.onnx', 'hello', undefined],
  ['m.pt', '', undefined],
])('%s is told by its bytes', (name, head, format) => {
  expect(formatOfFile(name, Buffer.from(head, 'latin1'))).toBe(format);
  expect(MODEL_FORMATS).toEqual(expect.arrayContaining(format === undefined ? [] : [format]));
});

test('safetensors are streamed as they are encoded', async () => {
  const chunks: Uint8Array[] = [];
  for await (const chunk of convertModel({ weights: [...weights].reverse(), format: 'safetensors' }))
    chunks.push(chunk);
  expect(new Uint8Array(Buffer.concat(chunks))).toEqual(safetensors);
});
