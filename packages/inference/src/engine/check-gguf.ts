import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { broken, type GgufHeader, type HeaderValue, readGgufHeader, type TensorEntry } from './gguf-header.js';

export interface GgufInfo {
  readonly architecture: string;
  /** What the file calls itself, else the name of the file. */
  readonly name: string;
  /** Tokens it was trained to see at once. */
  readonly contextTokens: number;
  readonly embeddingWidth: number;
  readonly vocabularySize: number;
  readonly parameterCount: number;
  readonly sizeBytes: number;
  readonly hasChatTemplate: boolean;
}

/** Without the first of these, llama.cpp ends the process rather than refusing the file. */
const REQUIRED_OF_TRANSFORMERS = [
  'attention.head_count',
  'feed_forward_length',
  'attention.layer_norm_rms_epsilon',
] as const;
const REQUIRED_OF_ALL = ['context_length', 'embedding_length', 'block_count'] as const;
const TRANSFORMERS: ReadonlySet<string> = new Set([
  'llama',
  'qwen2',
  'qwen3',
  'gemma',
  'gemma2',
  'gemma3',
  'phi3',
  'mistral3',
  'olmo2',
  'granite',
  'smollm3',
]);

/** Elements and bytes of a block, for the tensor types whose layout is settled (ggml.h). Others are not measured. */
const BLOCKS: Readonly<Record<number, readonly [elements: number, bytes: number]>> = {
  0: [1, 4],
  1: [1, 2],
  2: [32, 18],
  3: [32, 20],
  6: [32, 22],
  7: [32, 24],
  8: [32, 34],
  10: [256, 84],
  11: [256, 110],
  12: [256, 144],
  13: [256, 176],
  14: [256, 210],
  20: [32, 18],
  24: [1, 1],
  25: [1, 2],
  26: [1, 4],
  27: [1, 8],
  28: [1, 8],
  30: [1, 2],
};

/**
 * Looks into a GGUF file for what makes llama.cpp fail, or end the process that loads it, and says what is wrong in words.
 *
 * @throws OctomilError `model_load_failed` when the file is not there, is no GGUF of version 2 or 3, was cut short, or
 * lacks a key that its architecture needs
 */
export async function checkGguf(path: string): Promise<GgufInfo> {
  const fileName = basename(path);
  let file: Awaited<ReturnType<typeof open>>;
  try {
    file = await open(path, 'r');
  } catch (cause) {
    const missing = (cause as { code?: unknown }).code === 'ENOENT';
    throw new OctomilError(
      'model_load_failed',
      `the model file ${fileName} ${missing ? 'does not exist' : 'cannot be opened'}`,
      { cause },
    );
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw broken('it is a folder');
    const header = await readGgufHeader(file, stat.size);
    checkTensors(header, stat.size);
    return describe(header, stat.size, fileName);
  } catch (error) {
    if (!(error instanceof OctomilError)) throw error;
    throw new OctomilError(error.code, `${error.reason} (${fileName})`, { details: { file: fileName } });
  } finally {
    await file.close();
  }
}

function checkTensors({ tensors, values, endOffset }: GgufHeader, sizeBytes: number): void {
  if (tensors.length === 0) throw broken('it holds no tensor');
  const alignment = values.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || alignment < 1 || !Number.isInteger(alignment)) {
    throw broken('its general.alignment is no positive integer');
  }
  const dataOffset = Math.ceil(endOffset / alignment) * alignment;
  for (const tensor of tensors) {
    const end = dataOffset + tensor.offset + bytesOf(tensor);
    if (end > sizeBytes) {
      throw broken(`${tensor.name.slice(0, 80)} would end at byte ${end} of ${sizeBytes}; the file was cut short`);
    }
  }
}

function bytesOf({ shape, type }: TensorEntry): number {
  const [elements, bytes] = BLOCKS[type] ?? [1, 0];
  return (countOf(shape) / elements) * bytes;
}

function countOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

function describe({ values, tensors }: GgufHeader, sizeBytes: number, fileName: string): GgufInfo {
  const architecture = textOf(values, 'general.architecture');
  const keys = TRANSFORMERS.has(architecture) ? [...REQUIRED_OF_ALL, ...REQUIRED_OF_TRANSFORMERS] : REQUIRED_OF_ALL;
  for (const key of keys) requirePositive(values, `${architecture}.${key}`);
  textOf(values, 'tokenizer.ggml.model');
  const tokens = values.get('tokenizer.ggml.tokens');
  if (typeof tokens !== 'object' || tokens.length === 0) throw missing('tokenizer.ggml.tokens');
  const name = values.get('general.name');
  return {
    architecture,
    name: typeof name === 'string' && name !== '' ? name : fileName,
    contextTokens: Number(values.get(`${architecture}.context_length`)),
    embeddingWidth: Number(values.get(`${architecture}.embedding_length`)),
    vocabularySize: tokens.length,
    parameterCount: tensors.reduce((sum, { shape }) => sum + countOf(shape), 0),
    sizeBytes,
    hasChatTemplate: typeof values.get('tokenizer.chat_template') === 'string',
  };
}

function textOf(values: ReadonlyMap<string, HeaderValue>, key: string): string {
  const value = values.get(key);
  if (typeof value !== 'string' || value === '') throw missing(key);
  return value;
}

/** Some files hold one number for each layer. */
function requirePositive(values: ReadonlyMap<string, HeaderValue>, key: string): void {
  const value = values.get(key);
  const fits = typeof value === 'object' ? value.length > 0 : typeof value === 'number' && value > 0;
  if (!fits) throw missing(key);
}

function missing(key: string): OctomilError {
  return broken(`its header has no usable ${key.slice(0, 80)}, which the engine needs`);
}
