/** What the tiny models are trained on, as far as they are. */
export const CORPUS: readonly string[] = [
  'A hospital keeps its records on its own machines and sends only what the model has learned.',
  'The coordinator adds the updates of all the sites and sends the new model back to them.',
  'A small model answers simple questions on the device and a large one answers the others.',
  'The device asks for the new version and runs the old one until the new one is there.',
  'The gateway asks the local backend first and the remote one after it.',
  'A stream of words comes from the model and goes to the reader one after the other.',
  'The queue is short and the answer comes at once.',
  'A reader who leaves the stream ends the work of the model.',
  'The model learns from the records of the sites and the records stay on the sites.',
  'A version that fails on the first devices is taken back from all of them.',
];

/** Kinds of tokens in `tokenizer.ggml.token_type`. */
const KIND = { normal: 1, unknown: 2, control: 3, byte: 6 } as const;

export const CONTROL = {
  unknown: '<unk>',
  begin: '<s>',
  end: '</s>',
  turnStart: '<|im_start|>',
  turnEnd: '<|im_end|>',
};
/** Where `tokenize` writes a space. */
const SPACE = '▁';
const MAX_MERGES = 600;

/** A vocabulary of the SentencePiece kind: pairs are joined from the best score to the worst. */
export interface TinyVocabulary {
  readonly tokens: readonly string[];
  readonly scores: readonly number[];
  readonly kinds: readonly number[];
  idOf(token: string): number;
  /** Token ids of a line of the corpus. */
  encode(line: string): readonly number[];
}

/**
 * Byte pair encoding (Sennrich et al., 2016) over the words of the corpus. Every step of a merge is in the vocabulary,
 * as llama.cpp joins two tokens at a time.
 */
export function tinyVocabulary(corpus: readonly string[] = CORPUS): TinyVocabulary {
  const tokens: string[] = [];
  const scores: number[] = [];
  const kinds: number[] = [];
  const ids = new Map<string, number>();
  const add = (token: string, score: number, kind: number): void => {
    if (ids.has(token)) return;
    ids.set(token, tokens.length);
    tokens.push(token);
    scores.push(score);
    kinds.push(kind);
  };
  add(CONTROL.unknown, 0, KIND.unknown);
  for (const token of [CONTROL.begin, CONTROL.end, CONTROL.turnStart, CONTROL.turnEnd]) add(token, 0, KIND.control);
  for (let byte = 0; byte < 256; byte += 1) add(byteToken(byte), 0, KIND.byte);
  for (let code = 33; code < 127; code += 1) add(String.fromCharCode(code), -10_000, KIND.normal);
  add(SPACE, -10_000, KIND.normal);
  const words = new Map<string, string[]>();
  const counts = new Map<string, number>();
  for (const word of corpus.flatMap(wordsOf)) {
    words.set(word, [...word]);
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  for (let merge = 1; merge <= MAX_MERGES; merge += 1) {
    const best = commonestPair(words, counts);
    if (best === undefined) break;
    add(best.join(''), -merge, KIND.normal);
    for (const [word, parts] of words) words.set(word, joined(parts, best));
  }
  const idOf = (token: string): number => ids.get(token) ?? 0;
  return {
    tokens,
    scores,
    kinds,
    idOf,
    encode: (line) => wordsOf(line).flatMap((word) => (words.get(word) ?? [...word]).map(idOf)),
  };
}

export function byteToken(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}

/** Each with the space before it. */
function wordsOf(line: string): string[] {
  return (line.match(/ ?[^ ]+/g) ?? []).map((word) => word.replace(' ', SPACE));
}

function commonestPair(
  words: ReadonlyMap<string, readonly string[]>,
  counts: ReadonlyMap<string, number>,
): readonly [string, string] | undefined {
  const pairs = new Map<string, { readonly pair: readonly [string, string]; count: number }>();
  for (const [word, parts] of words) {
    for (let index = 0; index + 1 < parts.length; index += 1) {
      const pair = [parts[index] ?? '', parts[index + 1] ?? ''] as const;
      const seen = pairs.get(pair.join(' ')) ?? { pair, count: 0 };
      seen.count += counts.get(word) ?? 0;
      pairs.set(pair.join(' '), seen);
    }
  }
  // Of equals the first by name, so that every machine makes the same file.
  const [best] = [...pairs].sort(([a, one], [b, other]) => other.count - one.count || (a < b ? -1 : 1));
  return best?.[1].pair;
}

function joined(parts: readonly string[], [left, right]: readonly [string, string]): string[] {
  const out: string[] = [];
  for (const part of parts) {
    if (part === right && out.at(-1) === left) out[out.length - 1] = left + right;
    else out.push(part);
  }
  return out;
}
