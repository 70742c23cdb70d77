import { expect, test } from '@jest/globals';
import { writeNpy, writeTorchZip } from '@octomil/shared/formats';
import { encodeWeights, layoutOf, type NamedTensor, serializeSafetensors } from '@octomil/shared/tensors';
import { canonicalWeights, payloadFormat } from './weights-payload.js';

const TENSORS: NamedTensor[] = [
  { name: 'b', shape: [2], data: Float32Array.of(1, 2) },
  { name: 'a', shape: [1, 2], data: Float32Array.of(3, 4) },
];
const LAYOUT = layoutOf(TENSORS);

async function torchZip(tensors: readonly NamedTensor[]): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of writeTorchZip(tensors)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

test('every format gives the same bytes', async () => {
  const expected = encodeWeights(TENSORS);
  const doubles = TENSORS.map(({ name, shape, data }) => ({
    ...{ name, shape: [...shape], dtype: 'F64' as const },
    bytes: new Uint8Array(Float64Array.from(data).buffer),
  }));
  const files = {
    safetensors: expected,
    'safetensors of doubles': serializeSafetensors(doubles),
    'torch zip': await torchZip(TENSORS),
    // In the order of the names.
    npy: writeNpy({ shape: [4], data: Float32Array.of(3, 4, 1, 2) }),
  };
  for (const [what, file] of Object.entries(files)) {
    expect([what, Buffer.from(await canonicalWeights(file, LAYOUT)).equals(Buffer.from(expected))]).toEqual([
      what,
      true,
    ]);
  }
  expect([payloadFormat(files.npy), payloadFormat(files['torch zip'])]).toEqual(['npy', 'torch-zip']);
});

test('an array without a name is the one tensor of a model that has only one', async () => {
  const only: NamedTensor = { name: 'w', shape: [2, 1], data: Float32Array.of(5, 6) };
  const file = writeNpy({ shape: [2, 1], data: only.data });
  expect(await canonicalWeights(file, layoutOf([only]))).toEqual(encodeWeights([only]));
  await expect(canonicalWeights(writeNpy({ shape: [3], data: new Float32Array(3) }), LAYOUT)).rejects.toMatchObject({
    code: 'update_rejected',
  });
});

test('what cannot be read is refused, whatever it begins with', async () => {
  const good = await torchZip(TENSORS);
  const files = [
    new Uint8Array(0),
    new Uint8Array(50).fill(1),
    good.subarray(0, good.length - 40),
    Uint8Array.from([0x93, ...Buffer.from('NUMPY'), 9, 9, 9]),
    Buffer.from('PK\u0003\u0004 but nothing else'),
  ];
  for (const file of files) {
    await expect(canonicalWeights(file, LAYOUT)).rejects.toMatchObject({ code: 'update_rejected' });
  }
});
