import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import type { NamedTensor } from '@octomil/shared/tensors';
import fc from 'fast-check';
import { readPickle } from './pickle-reader.js';
import { stateDictPickle } from './pickle-writer.js';
import { writeStoredZip } from './stored-zip.js';
import { readTorchZip, writeTorchZip } from './torch-zip.js';

const python = spawnSync('python3', ['--version']).status === 0 ? 'python3' : undefined;
const torch = python !== undefined && spawnSync(python, ['-c', 'import torch']).status === 0;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'octomil-torch-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of source) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const shapes = fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 });
const stateDict = fc
  .uniqueArray(fc.tuple(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }), shapes, fc.float()), {
    selector: ([name]) => name,
    maxLength: 6,
  })
  .map((list): NamedTensor[] =>
    list.map(([name, shape, start]) => {
      const count = shape.reduce((total, size) => total * size, 1);
      return { name, shape, data: Float32Array.from({ length: count }, (_, index) => start + index) };
    }),
  );

test('any state dict survives, read from memory and from a file', async () => {
  const path = join(folder, 'state.pt');
  await fc.assert(
    fc.asyncProperty(stateDict, async (tensors) => {
      const bytes = await collect(writeTorchZip(tensors));
      const expected = { tensors: tensors.map((tensor) => ({ ...tensor, dtype: 'F32' })), others: [] };
      expect(await readTorchZip(bytes)).toEqual(expected);
      writeFileSync(path, bytes);
      expect(await readTorchZip(path)).toEqual(expected);
    }),
    { numRuns: 40 },
  );
});

test('the same tensors give the same bytes', async () => {
  const tensors = [{ name: 'encoder.0.weight', shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }];
  expect(await collect(writeTorchZip(tensors))).toEqual(await collect(writeTorchZip(tensors)));
});

(python === undefined ? test.skip : test)('the pickle is one that Python disassembles (needs python3)', () => {
  const path = join(folder, 'data.pkl');
  writeFileSync(path, stateDictPickle([{ name: 'layer.0.weight', shape: [3, 1000] }]));
  const text = execFileSync(python ?? '', ['-m', 'pickletools', path], { encoding: 'utf8' });
  const calls = [...text.matchAll(/GLOBAL\s+'([^']+)'/g)].map(([, name]) => name);
  expect(new Set(calls)).toEqual(
    new Set(['collections OrderedDict', 'torch._utils _rebuild_tensor_v2', 'torch FloatStorage']),
  );
  expect(text).toMatch(/BININT\s+3000/);
  expect(text).toContain('highest protocol among opcodes = 2');
});

/** Python's own pickler over a module's state dict, with names that stand for torch's. */
const PICKLE_STATE_DICT = `
import collections, io, pickle, sys, types
def module(name):
    made = types.ModuleType(name); sys.modules[name] = made; return made
utils, torch = module('torch._utils'), module('torch')
def named(owner, name, made):
    made.__module__, made.__qualname__, made.__name__ = owner.__name__, name, name
    setattr(owner, name, made); return made
rebuild = named(utils, '_rebuild_tensor_v2', lambda *a: None)
parameter = named(utils, '_rebuild_parameter', lambda *a: None)
kind = named(torch, 'DoubleStorage', type('DoubleStorage', (), {}))
class Storage: pass
class Tensor:
    def __reduce__(self):
        return rebuild, (Storage(), 0, (2,), (1,), False, collections.OrderedDict())
class Parameter:
    def __reduce__(self):
        return parameter, (Tensor(), True, collections.OrderedDict())
class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return ('storage', kind, '0', 'cpu', 2) if isinstance(value, Storage) else None
state = collections.OrderedDict([('layer.weight', Parameter()), ('layer.bias', Tensor())])
state._metadata = collections.OrderedDict([('', {'version': 1}), ('layer', {'version': 1})])
out = io.BytesIO()
Pickler(out, protocol=int(sys.argv[1])).dump({'model': state, 'epoch': 3, 'rate': 0.5, 'note': None, 'steps': [1, 70000, -1]})
sys.stdout.buffer.write(out.getvalue())
`;

(python === undefined ? test.skip : test).each([2, 3, 4, 5])(
  'a state dict as Python pickles it with protocol %i is read (needs python3)',
  async (protocol) => {
    const pickle = execFileSync(python ?? '', ['-c', PICKLE_STATE_DICT, String(protocol)]);
    const { tensors, others } = await readTorchZip(await zipOf(pickle, new Uint8Array(Float64Array.of(1, 2).buffer)));
    expect(others).toEqual(['epoch', 'rate', 'note', 'steps']);
    expect(tensors.map(({ name, dtype, data }) => [name, dtype, ...data])).toEqual([
      ['model.layer.weight', 'F64', 1, 2],
      ['model.layer.bias', 'F64', 1, 2],
    ]);
  },
);

/** What `torch.save` writes for `{'a': <2×3 tensor, transposed>, 'step': 7, 'inner': {'b': <the same storage>}}`. */
function foreignPickle(): Uint8Array {
  const tensor = (size: string, stride: string): string =>
    `ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03ctorch\nHalfStorage\nq\x04X\x01\x00\x00\x000q\x05X\x06\x00\x00\x00cuda:0q\x06K\x06tq\x07QK\x00${size}${stride}\x89ccollections\nOrderedDict\nq\x08)Rq\x09tq\x0aRq\x0b`;
  const text = (value: string): string => `X${String.fromCharCode(value.length)}\x00\x00\x00${value}`;
  return Buffer.from(
    `\x80\x02}q\x00(${text('a')}${tensor('K\x03K\x02\x86', 'K\x01K\x03\x86')}${text('step')}K\x07${text('inner')}}${text('b')}${tensor('K\x06\x85', 'K\x01\x85')}su.`,
    'latin1',
  );
}

const zipOf = (pickle: Uint8Array, storage: Uint8Array): Promise<Buffer> =>
  collect(
    writeStoredZip([
      { name: 'model/data.pkl', bytes: pickle },
      { name: 'model/data/0', bytes: storage },
    ]),
  );

test('strides, half floats, shared storages, nested dictionaries and values that are no tensors', async () => {
  const halves = Buffer.from(Uint16Array.of(0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600).buffer);
  const { tensors, others } = await readTorchZip(await zipOf(foreignPickle(), halves));
  expect(others).toEqual(['step']);
  expect(tensors).toEqual([
    { name: 'a', dtype: 'F16', shape: [3, 2], data: Float32Array.of(1, 4, 2, 5, 3, 6) },
    { name: 'inner.b', dtype: 'F16', shape: [6], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
  ]);
});

describe('refused', () => {
  const pickle = (text: string): Uint8Array => Buffer.from(text, 'latin1');
  test.each<[string, string, RegExp]>([
    ['a call of os.system', '\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.', /it wants "os.system"/],
    ['builtins.eval', '\x80\x02c__builtin__\neval\nq\x00.', /it wants "__builtin__.eval"/],
    ['an object of a class', '\x80\x02)\x81.', /instruction 0x81/],
    ['a list', '\x80\x02].', /holds a list/],
    ['no end', '\x80\x02}', /ends after/],
    ['an unknown memo', '\x80\x02h\x07.', /recalls value 7/],
    ['a call of a dictionary', '\x80\x02})R.', /calls a dict/],
    ['a storage class that is called', '\x80\x02ctorch\nFloatStorage\n)R.', /calls torch.FloatStorage/],
  ])('%s', async (_, text, message) => {
    await expect(readTorchZip(await zipOf(pickle(text), new Uint8Array()))).rejects.toThrow(message);
    await expect(readTorchZip(await zipOf(pickle(text), new Uint8Array()))).rejects.toMatchObject({
      code: 'corrupt_file',
    });
  });

  test('a tensor beyond its storage, a storage beyond its file, an expanded view', async () => {
    const halves = new Uint8Array(12);
    const pickled = Buffer.from(foreignPickle()).toString('latin1');
    const change = (from: string, to: string) => zipOf(pickle(pickled.replace(from, to)), halves);
    await expect(readTorchZip(await change('QK\x00', 'QK\x01'))).rejects.toThrow(/reaches beyond its 6 elements/);
    await expect(readTorchZip(await change('K\x06tq', 'K\x07tq'))).rejects.toThrow(/storage "0" of 14 bytes/);
    await expect(readTorchZip(await change('K\x03K\x02\x86K\x01K\x03', 'K\xffK\xff\x86K\x00K\x00'))).rejects.toThrow(
      /expanded view/,
    );
  });

  test('self-reference, floods of instructions and shared dictionaries end', async () => {
    const self = '\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.';
    await expect(readTorchZip(await zipOf(pickle(self), new Uint8Array()))).rejects.toThrow(/nest more than 32/);
    expect(() => readPickle(pickle(`\x80\x02${'N0'.repeat(60)}N.`), { ...LIMITS, maxOpcodes: 100 })).toThrow(
      /more than 100 instructions/,
    );
    // Each of 25 dictionaries holds the one before twice: 2²⁵ names from a few hundred bytes.
    const doubling = Array.from(
      { length: 25 },
      (_, index) =>
        `}q${String.fromCharCode(index + 1)}(X\x01\x00\x00\x00ah${String.fromCharCode(index)}X\x01\x00\x00\x00bh${String.fromCharCode(index)}u`,
    ).join('0');
    await expect(
      readTorchZip(await zipOf(pickle(`\x80\x02}q\x000${doubling}.`), new Uint8Array())),
    ).rejects.toMatchObject({ code: 'corrupt_file' });
  });

  test('what a few instructions share is not worked through again and again', async () => {
    const empty = new Uint8Array();
    const shared = `}q\x00(${'K\x01K\x01'.repeat(100_000)}u0`;
    const short = (index: number): string => `M${String.fromCharCode(index & 255, index >> 8)}`;
    const users = Array.from({ length: 60_000 }, (_, index) => `${short(index)}h\x00`).join('');
    const { others } = await readTorchZip(await zipOf(pickle(`\x80\x02${shared}}(${users}u.`), empty));
    expect(others).toHaveLength(60_000);
    const long = `X\x00\x20\x00\x00${'n'.repeat(0x2000)}`;
    const names = Array.from({ length: 60_000 }, (_, index) => `${short(index)}N`).join('');
    await expect(readTorchZip(await zipOf(pickle(`\x80\x02}${long}}(${names}us.`), empty))).rejects.toThrow(
      /too many or too long names/,
    );
    const storage = '(X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000NK\x06tQ';
    const rank = `(${'K\x00'.repeat(200_000)}tq\x000`;
    const tensors = `${storage}K\x00h\x00h\x00`;
    expect(() => readPickle(pickle(`\x80\x02${rank}ctorch._utils\n_rebuild_tensor_v2\n(${tensors}tR.`))).toThrow(
      /offset, size or stride that is none/,
    );
  });

  test('a deflated entry, a damaged one, a legacy file', async () => {
    const bytes = await collect(writeTorchZip([{ name: 'w', shape: [4], data: Float32Array.of(1, 2, 3, 4) }]));
    const deflated = Buffer.from(bytes);
    const central = deflated.indexOf('PK\x01\x02');
    deflated.writeUInt16LE(8, central + 10);
    await expect(readTorchZip(deflated)).rejects.toThrow(/compressed/);
    const damaged = Buffer.from(bytes);
    const data = damaged.indexOf(Buffer.from(Float32Array.of(1, 2).buffer));
    damaged.writeUInt8(7, data);
    await expect(readTorchZip(damaged)).rejects.toThrow(/checksum differs/);
    await expect(readTorchZip(Buffer.from('\x80\x02\x8a\x0al\xfc', 'latin1'))).rejects.toMatchObject({
      code: 'corrupt_file',
    });
  });
});

const LIMITS = { maxOpcodes: 5_000, maxMemo: 100, maxStack: 100, maxTensors: 100 };
const onlyCorrupt = (error: unknown): void => {
  expect(error).toBeInstanceOf(OctomilError);
  expect((error as OctomilError).code).toBe('corrupt_file');
};

const damage = (bytes: Uint8Array) =>
  fc
    .array(fc.tuple(fc.nat({ max: bytes.length - 1 }), fc.nat({ max: 255 })), { minLength: 1, maxLength: 6 })
    .map((changes) => {
      const copy = Buffer.from(bytes);
      for (const [place, value] of changes) copy[place] = value;
      return copy;
    });

test('whatever the pickle, the answer is a value or corrupt_file', () => {
  const opcodes = fc.constantFrom(...Buffer.from('()]}.0NRQKJMXqrhjstueab\x80\x85\x86\x87\x88\x89\x8a\x8c', 'latin1'));
  const bytes = fc.oneof(
    damage(foreignPickle()),
    fc.array(fc.oneof(opcodes, fc.nat({ max: 255 })), { maxLength: 60 }).map((list) => Buffer.from(list)),
  );
  fc.assert(
    fc.property(bytes, (pickle) => {
      try {
        readPickle(pickle, LIMITS);
      } catch (error) {
        onlyCorrupt(error);
      }
    }),
    { numRuns: 3_000 },
  );
});

test('whatever the zip, the answer is a state dict or corrupt_file', async () => {
  const valid = await zipOf(foreignPickle(), new Uint8Array(12));
  const cut = fc.nat({ max: valid.length }).map((length) => valid.subarray(0, length));
  await fc.assert(
    fc.asyncProperty(fc.oneof(damage(valid), cut), (bytes) =>
      readTorchZip(bytes).then(
        () => undefined,
        (error: unknown) => onlyCorrupt(error),
      ),
    ),
    { numRuns: 1_000 },
  );
});

(torch ? test : test.skip)('torch.load(weights_only=True) takes it (needs Python with torch)', async () => {
  const path = join(folder, 'for-torch.pt');
  writeFileSync(
    path,
    await collect(
      writeTorchZip([
        { name: 'a.0.weight', shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
        { name: 'scalar', shape: [], data: Float32Array.of(7) },
      ]),
    ),
  );
  const script =
    'import sys,json,torch; d=torch.load(sys.argv[1],weights_only=True); print(json.dumps({k:v.tolist() for k,v in d.items()}))';
  const printed = execFileSync(python ?? '', ['-c', script, path], { encoding: 'utf8' });
  expect(JSON.parse(printed)).toEqual({
    'a.0.weight': [
      [1, 2, 3],
      [4, 5, 6],
    ],
    scalar: 7,
  });
});
