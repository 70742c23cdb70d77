import type { ErrorBody } from '@octomil/shared/errors';
import type { FinishReason, GenerationRequest, Said, TokenUsage, ToolFunction, ToolUse } from './engine.js';

export interface LoadOptions {
  readonly modelPath: string;
  readonly draftModelPath: string | undefined;
  readonly contextTokens: number;
  readonly parallelSequences: number;
  readonly threads: number;
  readonly gpu: boolean;
  /** How often the process says that it is there. */
  readonly aliveEveryMs: number;
}

/** A request whose format has become a grammar (GBNF) that every token is held to. */
export interface ConstrainedRequest extends Omit<GenerationRequest, 'responseFormat' | 'tools'> {
  readonly grammar: string | undefined;
  readonly tools?: ConstrainedTools;
}

/** Functions, each with the grammar of its arguments. */
export interface ConstrainedTools extends Omit<ToolUse, 'functions'> {
  readonly functions: readonly (ToolFunction & { readonly grammar: string })[];
}

/** Text as it is, for there are many; anything else by its name. */
export type SaidOnWire = string | Exclude<Said, { type: 'text' }>;

export interface Speculation {
  readonly drafted: number;
  readonly accepted: number;
}

export interface Completion {
  readonly finishReason: FinishReason;
  readonly usage: TokenUsage;
  readonly speculative?: Speculation;
}

/** To the process that holds a model. `id` names a generation or an embedding from its beginning to its end. */
export type ToEngine =
  | { readonly type: 'load'; readonly options: LoadOptions }
  | { readonly type: 'generate'; readonly id: number; readonly request: ConstrainedRequest }
  | { readonly type: 'embed'; readonly id: number; readonly inputs: readonly string[] }
  | { readonly type: 'cancel'; readonly id: number }
  /** The reader has taken this many characters: as many more may come. */
  | { readonly type: 'credit'; readonly id: number; readonly characters: number };

/** From it. A generation or embedding ends with `done`, `embedded` or `error`. */
export type FromEngine =
  | { readonly type: 'loaded'; readonly contextTokens: number; readonly rssBytes: number }
  | { readonly type: 'load_failed'; readonly error: ErrorBody }
  /** What several generations said since the last message, in the order in which they said it. */
  | { readonly type: 'text'; readonly chunks: readonly (readonly [id: number, said: SaidOnWire])[] }
  | { readonly type: 'done'; readonly id: number; readonly completion: Completion }
  | {
      readonly type: 'embedded';
      readonly id: number;
      readonly vectors: readonly Float32Array[];
      readonly promptTokens: number;
    }
  | { readonly type: 'error'; readonly id: number; readonly error: ErrorBody }
  | { readonly type: 'alive'; readonly rssBytes: number };

/** Characters that a generation may be ahead of its reader; then it pauses. */
export const WINDOW_CHARACTERS = 65_536;

/** What counts towards the window. */
export function charactersOf(said: SaidOnWire): number {
  if (typeof said === 'string') return said.length;
  return said.type === 'call' ? said.name.length : said.text.length;
}
