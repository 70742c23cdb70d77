import { OctomilError } from '@octomil/shared/errors';

/** Of node-llama-cpp, an optional peer, what the engine uses; its own types are not there without it. */
export type Token = number;

export interface LlamaText {
  tokenize(tokenizer: unknown): Token[];
  toString(): string;
}

/** What `LlamaText` is made of. */
export type TextParts = LlamaText | string | readonly TextParts[];

export interface FunctionCallItem {
  readonly type: 'functionCall';
  readonly name: string;
  readonly params: unknown;
  readonly result: unknown;
  /** Whether it begins another group of calls, instead of standing beside the one before. */
  readonly startsNewChunk: boolean;
}

/** How a chat template writes calls of functions. */
export interface FunctionSyntax {
  readonly call: { readonly prefix: TextParts; readonly paramsPrefix: TextParts; readonly suffix: TextParts };
  readonly parallelism?: {
    readonly call: {
      readonly sectionPrefix?: TextParts;
      readonly betweenCalls?: TextParts;
    };
  };
}

export type ChatItem =
  | { readonly type: 'system' | 'user'; readonly text: string }
  | { readonly type: 'model'; readonly response: readonly (string | FunctionCallItem)[] };

export interface ChatWrapper {
  readonly wrapperName: string;
  readonly settings: { readonly functions: FunctionSyntax };
  generateContextState(state: {
    readonly chatHistory: readonly ChatItem[];
    readonly availableFunctions?: Readonly<Record<string, { readonly description?: string; readonly params?: object }>>;
    readonly documentFunctionParams?: boolean;
  }): {
    readonly contextText: LlamaText;
    readonly stopGenerationTriggers: readonly (LlamaText | string | readonly unknown[])[];
  };
}

export interface LlamaModel {
  readonly tokenizer: unknown;
  readonly trainContextSize: number;
  readonly tokens: { readonly bos: Token | null; readonly shouldPrependBosToken: boolean };
  readonly fileInsights: { readonly totalLayers: number };
  tokenize(text: string, specialTokens?: boolean): Token[];
  detokenize(tokens: readonly Token[], specialTokens?: boolean, lastTokens?: readonly Token[]): string;
  isSpecialToken(token: Token): boolean;
  isEogToken(token: Token): boolean;
  iterateAllTokens(): Iterable<Token>;
  createContext(options: {
    readonly contextSize: number;
    readonly sequences: number;
    readonly threads: number;
  }): Promise<LlamaContext>;
  createEmbeddingContext(options: {
    readonly contextSize: number;
    readonly batchSize: number;
    readonly threads: number;
  }): Promise<LlamaEmbeddingContext>;
}

export interface LlamaContext {
  readonly contextSize: number;
  getSequence(options?: { readonly tokenPredictor?: object }): LlamaSequence;
}

export interface LlamaSequence {
  readonly nextTokenIndex: number;
  readonly tokenPredictions: { readonly used: number; readonly validated: number; readonly refuted: number };
  compareContextTokens(tokens: readonly Token[]): { readonly firstDifferentIndex: number };
  adaptStateToTokens(tokens: readonly Token[], allowShift?: boolean): Promise<void>;
  clearHistory(): Promise<void>;
  evaluateWithoutGeneratingNewTokens(tokens: readonly Token[]): Promise<void>;
  evaluate(
    tokens: readonly Token[],
    options: {
      readonly temperature: number;
      readonly topP: number;
      readonly seed: number;
      readonly grammarEvaluationState?: object;
      readonly tokenBias?: object;
      readonly repeatPenalty?: object;
    },
  ): AsyncGenerator<Token, void, void>;
}

export interface LlamaEmbeddingContext {
  getEmbeddingFor(tokens: readonly Token[]): Promise<{ readonly vector: readonly number[] }>;
}

export interface Llama {
  loadModel(options: { readonly modelPath: string }): Promise<LlamaModel>;
  createGrammar(options: { readonly grammar: string }): Promise<object>;
}

export interface LlamaLibrary {
  getLlama(options: {
    readonly gpu: 'auto' | false;
    readonly build: 'never';
    readonly skipDownload: true;
    readonly maxThreads: number;
    readonly logLevel: string;
    readonly progressLogs: false;
  }): Promise<Llama>;
  resolveChatWrapper(model: LlamaModel): ChatWrapper | null;
  LlamaText(parts: readonly TextParts[]): LlamaText;
  readonly LlamaGrammarEvaluationState: new (options: {
    readonly model: LlamaModel;
    readonly grammar: object;
  }) => object;
  readonly DraftSequenceTokenPredictor: new (
    sequence: LlamaSequence,
    options: { readonly minTokens: number },
  ) => object;
  readonly TokenBias: {
    for(model: LlamaModel): { set(tokens: Token[], bias: 'never'): object };
  };
}

/** A variable, so that neither the compiler nor a bundler looks for a package that need not be there. */
const PACKAGE: string = 'node-llama-cpp';

/** @throws OctomilError `runtime_unavailable` where node-llama-cpp is not installed, or has no build for this machine */
export async function loadLlamaLibrary(): Promise<LlamaLibrary> {
  try {
    return (await import(PACKAGE)) as LlamaLibrary;
  } catch (cause) {
    throw new OctomilError(
      'runtime_unavailable',
      'node-llama-cpp is not installed, or not for this machine; install it beside Octomil (npm install node-llama-cpp)',
      { cause },
    );
  }
}
