import { randomInt } from 'node:crypto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type CallForm, chatPrompt } from './chat-prompt.js';
import type { Completion, ConstrainedRequest, LoadOptions, SaidOnWire } from './engine-messages.js';
import {
  type ChatWrapper,
  type Llama,
  type LlamaEmbeddingContext,
  type LlamaLibrary,
  type LlamaModel,
  type LlamaSequence,
  loadLlamaLibrary,
  type Token,
} from './llama-library.js';
import { onWire, SequencePen, writeText } from './sequence-pen.js';
import { type Lease, SequencePool } from './sequence-pool.js';
import { writeWithTools } from './tool-writer.js';
import { Turnstile } from './turnstile.js';

/** Prompt tokens that are read between two looks at the signal; also llama.cpp's default batch. */
const PREFILL_TOKENS = 512;
/** More than the functions that a request may have. */
const MAX_GRAMMARS = 160;
const UNKNOWN_CHARACTER = '\uFFFD';
/** Tokens looked back at for the penalties of repeated ones. */
const PENALTY_TOKENS = 256;

/** Is told what is said as it is generated; a promise pauses the generation. */
export type TextSink = (said: SaidOnWire) => Promise<void> | undefined;

interface Work {
  readonly tokens: Token[];
  readonly stops: readonly string[];
  readonly form: CallForm | undefined;
  readonly room: number;
  readonly signal: AbortSignal;
  readonly say: TextSink;
}

/** A model in memory, within the process that is for it alone. */
export class LoadedModel {
  readonly contextTokens: number;
  readonly #library: LlamaLibrary;
  readonly #llama: Llama;
  readonly #model: LlamaModel;
  readonly #wrapper: ChatWrapper | null;
  readonly #pool: SequencePool;
  readonly #options: LoadOptions;
  readonly #turnstile = new Turnstile();
  /** Characters of the longest token. */
  readonly #longestToken: number;
  #embedding: Promise<LlamaEmbeddingContext> | undefined;
  #unspeakable: object | undefined;
  /** The last that were used; those of a request's functions are needed again for each call. */
  readonly #grammars = new Map<string, object>();

  private constructor(parts: {
    library: LlamaLibrary;
    llama: Llama;
    model: LlamaModel;
    sequences: readonly LlamaSequence[];
    contextTokens: number;
    options: LoadOptions;
  }) {
    this.#library = parts.library;
    this.#llama = parts.llama;
    this.#model = parts.model;
    this.#wrapper = parts.library.resolveChatWrapper(parts.model);
    this.#pool = new SequencePool(parts.sequences);
    this.#options = parts.options;
    this.contextTokens = parts.contextTokens;
    this.#longestToken = longestToken(parts.model);
  }

  /** @throws OctomilError `runtime_unavailable`, `model_load_failed` */
  static async load(options: LoadOptions): Promise<LoadedModel> {
    const library = await loadLlamaLibrary();
    const { contextTokens: contextSize, parallelSequences: sequences, threads } = options;
    try {
      const llama = await library.getLlama({
        gpu: options.gpu ? 'auto' : false,
        build: 'never',
        skipDownload: true,
        // The library's own default is at least 4 threads, which spin against each other on fewer cores.
        maxThreads: threads,
        logLevel: 'error',
        progressLogs: false,
      });
      const model = await llama.loadModel({ modelPath: options.modelPath });
      const context = await model.createContext({ contextSize, sequences, threads });
      const makeDraft = await drafting(library, llama, model, options);
      return new LoadedModel({
        library,
        llama,
        model,
        sequences: Array.from({ length: sequences }, () => context.getSequence(makeDraft())),
        // The library rounds up; what was asked for holds.
        contextTokens: Math.min(context.contextSize, contextSize),
        options,
      });
    } catch (error) {
      throw toOctomilError(error, 'model_load_failed');
    }
  }

  /** @throws OctomilError `context_too_large`, `invalid_input` for a grammar, `inference_failed`; the signal's reason */
  async generate(request: ConstrainedRequest, signal: AbortSignal, say: TextSink): Promise<Completion> {
    this.#refuseHopeless(request);
    const { tokens, stops, form } = this.#promptOf(request);
    // The last place of the context cannot be filled without shifting it.
    const room = this.contextTokens - tokens.length - 1;
    if (room < 1) {
      throw new OctomilError(
        'context_too_large',
        `the prompt has ${tokens.length} tokens; the context holds ${this.contextTokens}, and an answer needs some of them`,
        { details: { promptTokens: tokens.length, contextTokens: this.contextTokens } },
      );
    }
    // What the engine cannot hold to is refused before anything is said.
    const grammars = [request.grammar, ...(request.tools?.functions ?? []).map((one) => one.grammar)];
    for (const grammar of grammars) if (grammar !== undefined) await this.#compile(grammar);
    const lease = await this.#pool.take(tokens, signal);
    try {
      return await this.#run(lease, request, { tokens, stops, form, room, signal, say });
    } finally {
      lease.release();
    }
  }

  /** @throws OctomilError `context_too_large`, `invalid_input`; the signal's reason */
  async embed(
    inputs: readonly string[],
    signal: AbortSignal,
  ): Promise<{ vectors: Float32Array[]; promptTokens: number }> {
    const tokenized = inputs.map((input) => this.#model.tokenize(input, false));
    tokenized.forEach((tokens, index) => {
      if (tokens.length === 0) throw new OctomilError('invalid_input', `input ${index} is empty`);
      if (tokens.length + 2 < this.contextTokens) return;
      throw new OctomilError(
        'context_too_large',
        `input ${index} has ${tokens.length} tokens; the context holds ${this.contextTokens}`,
        { details: { promptTokens: tokens.length, contextTokens: this.contextTokens } },
      );
    });
    this.#embedding ??= this.#model.createEmbeddingContext({
      contextSize: this.contextTokens,
      batchSize: this.contextTokens,
      threads: this.#options.threads,
    });
    const context = await this.#embedding;
    const vectors: Float32Array[] = [];
    for (const tokens of tokenized) {
      signal.throwIfAborted();
      vectors.push(normalised((await context.getEmbeddingFor(tokens)).vector));
    }
    return { vectors, promptTokens: tokenized.reduce((sum, tokens) => sum + tokens.length, 0) };
  }

  /** Megabytes would take seconds to become tokens, in which no other generation goes on. */
  #refuseHopeless({ input }: ConstrainedRequest): void {
    const characters =
      'prompt' in input
        ? input.prompt.length
        : input.messages.reduce((sum, { content, toolCalls = [] }) => {
            return toolCalls.reduce((inner, call) => inner + call.arguments.length, sum + content.length);
          }, 0);
    const least = Math.ceil(characters / this.#longestToken);
    if (least < this.contextTokens) return;
    throw new OctomilError(
      'context_too_large',
      `the prompt has ${characters} characters, which are at least ${least} tokens; the context holds ${this.contextTokens}`,
      { details: { promptCharacters: characters, contextTokens: this.contextTokens } },
    );
  }

  #promptOf({ input, grammar, stop, tools }: ConstrainedRequest): Pick<Work, 'tokens' | 'stops' | 'form'> {
    if ('prompt' in input) {
      const tokens = this.#model.tokenize(input.prompt, false);
      const { bos, shouldPrependBosToken } = this.#model.tokens;
      if ((shouldPrependBosToken || tokens.length === 0) && bos !== null) tokens.unshift(bos);
      return { tokens, stops: stop, form: undefined };
    }
    if (this.#wrapper === null) {
      throw new OctomilError('invalid_input', 'this model has no chat template; give it a prompt to continue');
    }
    const functions = tools?.functions ?? [];
    const { tokens, ends, form } = chatPrompt(this.#library, this.#model, this.#wrapper, input.messages, functions);
    // Some models spell the end of a turn; within a grammar nothing but the grammar ends.
    return { tokens, stops: grammar === undefined ? [...stop, ...ends] : stop, form };
  }

  async #constrain(grammar: string): Promise<{ grammarEvaluationState: object; tokenBias: object }> {
    const compiled = await this.#compile(grammar);
    return {
      grammarEvaluationState: new this.#library.LlamaGrammarEvaluationState({ model: this.#model, grammar: compiled }),
      tokenBias: this.#ban(),
    };
  }

  async #compile(grammar: string): Promise<object> {
    const known = this.#grammars.get(grammar);
    if (known !== undefined) return known;
    try {
      const compiled = await this.#llama.createGrammar({ grammar });
      this.#grammars.set(grammar, compiled);
      const [oldest] = this.#grammars.keys();
      if (this.#grammars.size > MAX_GRAMMARS && oldest !== undefined) this.#grammars.delete(oldest);
      return compiled;
    } catch (cause) {
      throw new OctomilError(
        'invalid_input',
        'the engine cannot hold to this schema; make its lengths and counts smaller',
        { cause, details: { field: 'response_format' } },
      );
    }
  }

  /** Bytes of a character that never ends would break JSON, and control tokens are in no text: both are left out. */
  #ban(): object {
    if (this.#unspeakable !== undefined) return this.#unspeakable;
    const model = this.#model;
    const banned = [...model.iterateAllTokens()].filter(
      (token) =>
        !model.isEogToken(token) &&
        (model.isSpecialToken(token) || model.detokenize([token], true).includes(UNKNOWN_CHARACTER)),
    );
    this.#unspeakable = this.#library.TokenBias.for(model).set(banned, 'never');
    return this.#unspeakable;
  }

  async #run({ sequence }: Lease, request: ConstrainedRequest, work: Work): Promise<Completion> {
    const { tokens, room, say, form } = work;
    const before = { ...sequence.tokenPredictions };
    const pen = new SequencePen(tokens, Math.min(request.maxTokens ?? room, room), {
      read: (all) => this.#read(sequence, all, work.signal),
      evaluate: async (last, written, passage, grammar) =>
        sequence.evaluate([last], {
          temperature: request.temperature,
          topP: request.topP,
          seed: seedOf(request, passage),
          ...penalties(request, written),
          ...(grammar === undefined ? {} : await this.#constrain(grammar)),
        }),
      detokenize: (some, last) => this.#model.detokenize(some, false, last),
      tokenize: (text) => this.#model.tokenize(text, false),
      pause: () => this.#turnstile.closed,
      signal: work.signal,
    });
    const finishReason =
      request.tools === undefined || form === undefined
        ? await writeText(pen, request.grammar, work.stops, say)
        : await writeWithTools(pen, request.tools, form, { grammar: request.grammar, stops: work.stops }, (said) =>
            say(onWire(said)),
          );
    work.signal.throwIfAborted();
    return {
      finishReason,
      usage: {
        promptTokens: tokens.length,
        completionTokens: pen.written,
        cachedTokens: pen.cachedTokens,
        estimated: false,
      },
      ...(this.#options.draftModelPath === undefined ? {} : { speculative: speculation(sequence, before) }),
    };
  }

  /** Reads all but the last token, so that there is something to go on from. Returns how many it had read before. */
  async #read(sequence: LlamaSequence, tokens: readonly Token[], signal: AbortSignal): Promise<number> {
    await this.#turnstile.change(() => sequence.adaptStateToTokens(tokens.slice(0, -1), false));
    const known = sequence.nextTokenIndex;
    for (let at = known; at < tokens.length - 1; at += PREFILL_TOKENS) {
      signal.throwIfAborted();
      await this.#turnstile.closed;
      await sequence.evaluateWithoutGeneratingNewTokens(
        tokens.slice(at, Math.min(at + PREFILL_TOKENS, tokens.length - 1)),
      );
    }
    return known;
  }
}

/** A draft sequence for each sequence, or nothing without a draft model. */
async function drafting(
  library: LlamaLibrary,
  llama: Llama,
  model: LlamaModel,
  options: LoadOptions,
): Promise<() => { readonly tokenPredictor: object } | undefined> {
  if (options.draftModelPath === undefined) return () => undefined;
  const draft = await llama.loadModel({ modelPath: options.draftModelPath });
  if (!sameVocabulary(model, draft)) {
    throw new OctomilError(
      'model_load_failed',
      'the draft model has another vocabulary than the model it is to draft for',
    );
  }
  const context = await draft.createContext({
    contextSize: options.contextTokens,
    sequences: options.parallelSequences,
    threads: options.threads,
  });
  // With its default of no tokens at least, no prediction was ever used.
  return () => ({ tokenPredictor: new library.DraftSequenceTokenPredictor(context.getSequence(), { minTokens: 1 }) });
}

function longestToken(model: LlamaModel): number {
  let longest = 1;
  for (const token of model.iterateAllTokens()) longest = Math.max(longest, model.detokenize([token], false).length);
  return longest;
}

function sameVocabulary(one: LlamaModel, other: LlamaModel): boolean {
  const tokens = [...one.iterateAllTokens()];
  if ([...other.iterateAllTokens()].length !== tokens.length) return false;
  return tokens.every((token) => one.detokenize([token], true) === other.detokenize([token], true));
}

/** 32 bits without the last value, which llama.cpp takes for "any". */
function seedOf({ seed }: ConstrainedRequest, passage: number): number {
  return seed === undefined ? randomInt(2 ** 31) : ((seed + passage) >>> 0) % 0xffff_ffff;
}

function penalties(request: ConstrainedRequest, generated: readonly Token[]): { readonly repeatPenalty?: object } {
  const { frequencyPenalty = 0, presencePenalty = 0 } = request;
  if (frequencyPenalty === 0 && presencePenalty === 0) return {};
  return {
    repeatPenalty: {
      punishTokens: () => generated.slice(-PENALTY_TOKENS),
      maxPunishTokens: PENALTY_TOKENS,
      penalty: 1,
      frequencyPenalty,
      presencePenalty,
    },
  };
}

function speculation(
  sequence: LlamaSequence,
  before: { readonly used: number; readonly validated: number; readonly refuted: number },
): { readonly drafted: number; readonly accepted: number } {
  const { used, validated, refuted } = sequence.tokenPredictions;
  return { drafted: validated - before.validated + refuted - before.refuted, accepted: used - before.used };
}

function normalised(vector: readonly number[]): Float32Array {
  const length = Math.hypot(...vector);
  if (!Number.isFinite(length) || length === 0) {
    throw new OctomilError('inference_failed', 'the model gave an embedding without a direction');
  }
  return Float32Array.from(vector, (value) => value / length);
}
