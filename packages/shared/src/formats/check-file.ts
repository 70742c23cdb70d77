import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { parseModelDocument, planModel } from '@octomil/shared/models';
import {
  bfloat16ToFloat32,
  DTYPE_BYTES,
  type Dtype,
  elementCount,
  float16ToFloat32,
  headerLength,
  parseHeader,
} from '@octomil/shared/tensors';
import type { ModelFormat } from './file-format.js';
import { formatOfPath } from './model-file.js';
import { readNpy } from './npy.js';
import { readTorchZip } from './torch-zip.js';

export interface CheckedTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly parameters: number;
}

export interface CheckedFile {
  /** Undefined when the bytes are of no known format. */
  readonly format: ModelFormat | undefined;
  readonly sizeBytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
  /** Empty for formats that are not looked into. */
  readonly tensors: readonly CheckedTensor[];
  readonly parameters: number;
  /** Whether every number is finite; undefined when none was looked at. */
  readonly finite: boolean | undefined;
  /** What is wrong, in words; empty for a file that can be used. */
  readonly problems: readonly string[];
}

type Found = Pick<CheckedFile, 'tensors' | 'finite' | 'problems'>;

const CHUNK_BYTES = 1024 * 1024;
/** Larger ones are not read into memory for a check. */
const MAX_WHOLE_BYTES = 2 ** 31;
const NOTHING: Found = { tensors: [], finite: undefined, problems: [] };

/**
 * Looks into a model file without running anything of it: safetensors piece by piece, PyTorch state dicts, `.npy` and
 * model documents. Other formats are told apart and hashed.
 *
 * @throws OctomilError `not_found`, `invalid_input` when it is no file; what is wrong with its content is in `problems`
 */
export async function checkFile(path: string): Promise<CheckedFile> {
  const { format, sizeBytes } = await formatOfPath(path);
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  const found = await lookInto(path, format, sizeBytes).catch((error: unknown): Found => {
    return { ...NOTHING, problems: [toOctomilError(error).reason] };
  });
  const parameters = found.tensors.reduce((sum, tensor) => sum + tensor.parameters, 0);
  return { format, sizeBytes, sha256: hash.digest('hex'), ...found, parameters };
}

async function lookInto(path: string, format: ModelFormat | undefined, sizeBytes: number): Promise<Found> {
  if (format === undefined) return { ...NOTHING, problems: ['the bytes are of no format that is known here'] };
  return (await LOOKERS[format]?.(path, sizeBytes)) ?? NOTHING;
}

/** Formats that are looked into. */
const LOOKERS: Partial<Readonly<Record<ModelFormat, (path: string, sizeBytes: number) => Found | Promise<Found>>>> = {
  safetensors: checkSafetensors,
  pytorch: checkTorch,
  npy: async (path, sizeBytes) => {
    refuseAbove(sizeBytes);
    const { dtype, shape, data } = readNpy(await readFile(path));
    const finite = data.every(Number.isFinite);
    return report([{ name: 'array', dtype, shape, parameters: data.length }], finite ? undefined : 'array');
  },
  'model.json': async (path) => {
    const { architecture, inputWidth } = parseModelDocument(await readFile(path));
    const weights = [...planModel(architecture, inputWidth).weights.values()].flat();
    const tensors = weights.map(({ name, shape }) => ({ name, dtype: 'F32', shape, parameters: elementCount(shape) }));
    return { ...NOTHING, tensors };
  },
  sklearn: () => ({
    ...NOTHING,
    problems: ['a pickle can run any code when it is opened, so it is never opened here'],
  }),
};

function report(tensors: readonly CheckedTensor[], notFinite: string | undefined): Found {
  const problems =
    notFinite === undefined ? [] : [`tensor ${JSON.stringify(notFinite)} holds a number that is not finite`];
  return { tensors, finite: notFinite === undefined, problems };
}

async function checkTorch(path: string, sizeBytes: number): Promise<Found> {
  refuseAbove(sizeBytes);
  const { tensors, others } = await readTorchZip(path, { maxBytes: MAX_WHOLE_BYTES });
  const shown = tensors.map(({ name, dtype, shape, data }) => ({ name, dtype, shape, parameters: data.length }));
  const found = report(shown, tensors.find(({ data }) => !data.every(Number.isFinite))?.name);
  const left = others.slice(0, 5).map((name) => JSON.stringify(name));
  if (left.length === 0) return found;
  const more = others.length > left.length ? ` and ${others.length - left.length} more` : '';
  return {
    ...found,
    problems: [...found.problems, `entries that are no tensors are left out: ${left.join(', ')}${more}`],
  };
}

/** Reads its header, then its numbers in pieces: a file of any size takes a megabyte. */
async function checkSafetensors(path: string, sizeBytes: number): Promise<Found> {
  const file = await open(path, 'r');
  try {
    const field = new Uint8Array(8);
    const { bytesRead } = await file.read(field, 0, 8, 0);
    const prefix = new Uint8Array(8 + headerLength(field.subarray(0, bytesRead), { fileBytes: sizeBytes }));
    await file.read(prefix, 0, prefix.length, 0);
    const header = parseHeader(prefix, sizeBytes);
    let notFinite: string | undefined;
    // The buffer is aligned for every type, and pieces end between numbers.
    const buffer = new Uint8Array(CHUNK_BYTES);
    for (const { name, dtype, begin, end } of header.entries) {
      for (let at = begin; at < end && notFinite === undefined; at += CHUNK_BYTES) {
        const length = Math.min(CHUNK_BYTES, end - at);
        await file.read(buffer, 0, length, header.dataOffset + at);
        if (!isFiniteBytes(buffer, length, dtype)) notFinite = name;
      }
    }
    const tensors = header.entries.map(({ name, dtype, shape }) => {
      return { name, dtype, shape, parameters: elementCount(shape) };
    });
    return report(tensors, notFinite);
  } finally {
    await file.close();
  }
}

type Floats = (buffer: ArrayBufferLike, count: number) => Float32Array | Float64Array;

/** Integers are always finite. */
const FLOATS: Partial<Readonly<Record<Dtype, Floats>>> = {
  F64: (buffer, count) => new Float64Array(buffer, 0, count),
  F32: (buffer, count) => new Float32Array(buffer, 0, count),
  F16: (buffer, count) => float16ToFloat32(new Uint16Array(buffer, 0, count)),
  BF16: (buffer, count) => bfloat16ToFloat32(new Uint16Array(buffer, 0, count)),
};

function isFiniteBytes({ buffer }: Uint8Array, length: number, dtype: Dtype): boolean {
  return FLOATS[dtype]?.(buffer, length / DTYPE_BYTES[dtype]).every(Number.isFinite) ?? true;
}

function refuseAbove(sizeBytes: number): void {
  if (sizeBytes <= MAX_WHOLE_BYTES) return;
  throw new OctomilError('too_large', `the file has ${sizeBytes} bytes; up to ${MAX_WHOLE_BYTES} are looked into`);
}
