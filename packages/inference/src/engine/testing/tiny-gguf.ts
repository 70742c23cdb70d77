import { writeFile } from 'node:fs/promises';
import { seededRandom } from '@octomil/shared/models';
import { encodeGguf, type GgufTensor, type GgufValue } from './gguf-writer.js';
import { byteToken, CONTROL, CORPUS, type TinyVocabulary, tinyVocabulary } from './tiny-vocabulary.js';

export interface TinyGgufOptions {
  /**
   * `random`: seeded noise, so that whatever order its answers have is not the model's. `bigram`: the next token follows
   * from the last one as in the corpus, which reads like English. `draft`: `random` with half the width and one layer.
   * All have one vocabulary, so that one can draft for another.
   */
  readonly kind: 'random' | 'bigram' | 'draft';
  readonly path: string;
  /** Default 1. */
  readonly seed?: number;
  /** Default 2,048. */
  readonly contextTokens?: number;
  /** Of `bigram`: lines that it has learned instead. */
  readonly corpus?: readonly string[];
  /** Default: ChatML, without a word on functions. */
  readonly chatTemplate?: string;
  /** Header keys to leave out, for files that are not as they should be. */
  readonly leaveOut?: readonly string[];
}

interface Shape {
  readonly embedding: number;
  readonly layers: number;
  readonly feedForward: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headWidth: number;
}

const CHAT_TEMPLATE =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** Writes a model of the llama architecture that is small enough to be made in a test. The same seed gives the same bytes. */
export async function makeTinyGguf(options: TinyGgufOptions): Promise<void> {
  const corpus = options.corpus ?? CORPUS;
  const vocabulary = tinyVocabulary(corpus);
  const shape = shapeOf(options.kind, vocabulary.tokens.length);
  const metadata = header(options, vocabulary, shape);
  for (const key of options.leaveOut ?? []) metadata.delete(key);
  const tensors =
    options.kind === 'bigram' ? bigram(vocabulary, shape, corpus) : noise(vocabulary, shape, options.seed ?? 1);
  await writeFile(options.path, encodeGguf(metadata, tensors));
}

function shapeOf(kind: TinyGgufOptions['kind'], tokens: number): Shape {
  switch (kind) {
    case 'random':
      return { embedding: 64, layers: 2, feedForward: 128, heads: 4, keyValueHeads: 2, headWidth: 16 };
    case 'draft':
      return { embedding: 32, layers: 1, feedForward: 64, heads: 2, keyValueHeads: 1, headWidth: 16 };
    case 'bigram':
      // One dimension for each token.
      return {
        embedding: Math.ceil(tokens / 32) * 32,
        layers: 1,
        feedForward: 32,
        heads: 1,
        keyValueHeads: 1,
        headWidth: 32,
      };
  }
}

function header(options: TinyGgufOptions, vocabulary: TinyVocabulary, shape: Shape): Map<string, GgufValue> {
  const number = (value: number): GgufValue => ({ type: 'uint32', value });
  const flag = (value: boolean): GgufValue => ({ type: 'bool', value });
  const text = (value: string): GgufValue => ({ type: 'string', value });
  return new Map<string, GgufValue>([
    ['general.architecture', text('llama')],
    ['general.name', text(`octomil-tiny-${options.kind}`)],
    ['general.file_type', number(1)],
    ['llama.context_length', number(options.contextTokens ?? 2048)],
    ['llama.embedding_length', number(shape.embedding)],
    ['llama.block_count', number(shape.layers)],
    ['llama.feed_forward_length', number(shape.feedForward)],
    ['llama.attention.head_count', number(shape.heads)],
    ['llama.attention.head_count_kv', number(shape.keyValueHeads)],
    ['llama.attention.key_length', number(shape.headWidth)],
    ['llama.attention.value_length', number(shape.headWidth)],
    ['llama.attention.layer_norm_rms_epsilon', { type: 'float32', value: 1e-6 }],
    ['llama.rope.dimension_count', number(shape.headWidth)],
    ['llama.rope.freq_base', { type: 'float32', value: 10_000 }],
    ['llama.vocab_size', number(vocabulary.tokens.length)],
    ['tokenizer.ggml.model', text('llama')],
    ['tokenizer.ggml.pre', text('default')],
    ['tokenizer.ggml.tokens', { type: 'strings', value: vocabulary.tokens }],
    ['tokenizer.ggml.scores', { type: 'float32s', value: vocabulary.scores }],
    ['tokenizer.ggml.token_type', { type: 'int32s', value: vocabulary.kinds }],
    ['tokenizer.ggml.bos_token_id', number(vocabulary.idOf(CONTROL.begin))],
    ['tokenizer.ggml.eos_token_id', number(vocabulary.idOf(CONTROL.turnEnd))],
    ['tokenizer.ggml.unknown_token_id', number(vocabulary.idOf(CONTROL.unknown))],
    ['tokenizer.ggml.add_bos_token', flag(true)],
    ['tokenizer.ggml.add_eos_token', flag(false)],
    ['tokenizer.ggml.add_space_prefix', flag(false)],
    ['tokenizer.chat_template', text(options.chatTemplate ?? CHAT_TEMPLATE)],
  ]);
}

function noise(vocabulary: TinyVocabulary, shape: Shape, seed: number): GgufTensor[] {
  const random = seededRandom(seed, 'tiny-gguf');
  const tokens = vocabulary.tokens.length;
  const gaussian = (count: number, deviation: number): Float32Array =>
    Float32Array.from({ length: count }, () => random.normal() * deviation);
  return [
    {
      name: 'token_embd.weight',
      shape: [shape.embedding, tokens],
      values: gaussian(shape.embedding * tokens, 1),
      precision: 'f16',
    },
    norm('output_norm.weight', shape.embedding),
    {
      name: 'output.weight',
      shape: [shape.embedding, tokens],
      values: gaussian(shape.embedding * tokens, 0.3),
      precision: 'f16',
    },
    ...layers(shape, (count) => gaussian(count, 0.1)),
  ];
}

/**
 * Embeddings that are one at the token's own place and layers that add nothing: what comes out for a token is its row of
 * the output matrix, the logarithm of how probable each next token is. The norm scales a one among `embedding` numbers
 * to the root of `embedding`, which the output matrix takes back.
 */
function bigram(vocabulary: TinyVocabulary, shape: Shape, corpus: readonly string[]): GgufTensor[] {
  const { embedding } = shape;
  const tokens = vocabulary.tokens.length;
  const counts = countPairs(vocabulary, corpus);
  const start = vocabulary.idOf(byteToken(10));
  const embeddings = new Float32Array(embedding * tokens);
  const output = new Float32Array(embedding * tokens);
  for (let token = 0; token < tokens; token += 1) {
    embeddings[token * embedding + token] = 1;
    const next = counts[token]?.size === 0 ? counts[start] : counts[token];
    const total = [...(next?.values() ?? [])].reduce((sum, count) => sum + count, 0);
    for (let following = 0; following < tokens; following += 1) {
      const probability = ((next?.get(following) ?? 0) + 1e-4) / (total + 1e-4 * tokens);
      output[following * embedding + token] = Math.log(probability) / Math.sqrt(embedding);
    }
  }
  return [
    { name: 'token_embd.weight', shape: [embedding, tokens], values: embeddings, precision: 'f16' },
    norm('output_norm.weight', embedding),
    { name: 'output.weight', shape: [embedding, tokens], values: output, precision: 'f16' },
    ...layers(shape, (count) => new Float32Array(count)),
  ];
}

/** How often each token follows each other one; a line begins after a line break and ends with one, or with the turn. */
function countPairs(vocabulary: TinyVocabulary, corpus: readonly string[]): Map<number, number>[] {
  const counts = vocabulary.tokens.map(() => new Map<number, number>());
  const count = (token: number, next: number): void => {
    const row = counts[token];
    row?.set(next, (row.get(next) ?? 0) + 1);
  };
  const lineBreak = vocabulary.idOf(byteToken(10));
  for (const line of corpus) {
    let last = lineBreak;
    for (const token of vocabulary.encode(line)) {
      count(last, token);
      last = token;
    }
    count(last, lineBreak);
    count(last, vocabulary.idOf(CONTROL.turnEnd));
  }
  return counts;
}

function layers(shape: Shape, make: (count: number) => Float32Array): GgufTensor[] {
  const { embedding, feedForward, heads, keyValueHeads, headWidth } = shape;
  return Array.from({ length: shape.layers }, (_, index) => {
    const matrix = (name: string, inputs: number, outputs: number): GgufTensor => ({
      name: `blk.${index}.${name}.weight`,
      shape: [inputs, outputs],
      values: make(inputs * outputs),
      precision: 'f16',
    });
    return [
      norm(`blk.${index}.attn_norm.weight`, embedding),
      matrix('attn_q', embedding, heads * headWidth),
      matrix('attn_k', embedding, keyValueHeads * headWidth),
      matrix('attn_v', embedding, keyValueHeads * headWidth),
      matrix('attn_output', heads * headWidth, embedding),
      norm(`blk.${index}.ffn_norm.weight`, embedding),
      matrix('ffn_gate', embedding, feedForward),
      matrix('ffn_up', embedding, feedForward),
      matrix('ffn_down', feedForward, embedding),
    ];
  }).flat();
}

function norm(name: string, width: number): GgufTensor {
  return { name, shape: [width], values: new Float32Array(width).fill(1), precision: 'f32' };
}
