/** One turn of a conversation. Content is plain text: it is never read as control tokens. */
export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant' | 'tool';
  readonly content: string;
  readonly name?: string;
}

/** What the answer must look like. `json_schema` is enforced by a grammar and checked afterwards. */
export type ResponseFormat =
  | { readonly type: 'text' }
  | { readonly type: 'json_object' }
  | { readonly type: 'json_schema'; readonly name: string; readonly schema: Readonly<Record<string, unknown>> };

export interface GenerationRequest {
  /** A conversation, or raw text to continue. */
  readonly input: { readonly messages: readonly ChatMessage[] } | { readonly prompt: string };
  /** Up to the end of the context when undefined. */
  readonly maxTokens: number | undefined;
  readonly temperature: number;
  /** Nucleus sampling (Holtzman et al., 2020), 0 to 1. */
  readonly topP: number;
  /** Generation ends before the first of these; they are not part of the text. */
  readonly stop: readonly string[];
  readonly seed: number | undefined;
  readonly responseFormat: ResponseFormat;
  /** -2 to 2: makes a token less probable each time that it has come. Default 0. */
  readonly frequencyPenalty?: number;
  /** -2 to 2: makes a token less probable once it has come. Default 0. */
  readonly presencePenalty?: number;
}

export interface TokenUsage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Of the prompt, taken from the prefix cache. */
  readonly cachedTokens: number;
  /** The figures were not counted by the engine itself. */
  readonly estimated: boolean;
}

/** `stop`: end of text, a stop sequence or a finished grammar; `length`: `maxTokens` or the context was reached. */
export type FinishReason = 'stop' | 'length';

export type GenerationEvent =
  | { readonly type: 'text'; readonly text: string }
  | {
      readonly type: 'done';
      readonly finishReason: FinishReason;
      readonly usage: TokenUsage;
      /** Tokens that a draft model proposed and the model took; undefined without a draft. */
      readonly speculative?: { readonly drafted: number; readonly accepted: number };
    };

export interface EngineDescription {
  readonly engine: string;
  readonly contextTokens: number;
  /** How many generations run at once. */
  readonly parallelSequences: number;
  readonly canEmbed: boolean;
  /** A draft model proposes tokens. Default false. */
  readonly speculative?: boolean;
}

/** How the process of an engine is. */
export interface EngineHealth {
  readonly state: 'loading' | 'ready' | 'failed' | 'stopped';
  /** What the engine's process has in memory; undefined while there is none. */
  readonly rssBytes: number | undefined;
  /** Times that it was started anew. */
  readonly restarts: number;
  /** Why it failed, where it did. */
  readonly reason: string | undefined;
}

/** Generates text on this machine. One engine holds one model. */
export interface GenerationEngine {
  readonly description: EngineDescription;
  /** Left out by engines without a process of their own. */
  health?(): EngineHealth;
  /**
   * Ends with exactly one `done`, or throws.
   *
   * @throws OctomilError `context_too_large` (never cut silently), `invalid_input` for a schema it cannot enforce,
   * `model_load_failed`, `inference_failed`, `cancelled`
   */
  generate(request: GenerationRequest, signal: AbortSignal): AsyncIterable<GenerationEvent>;
  /** Vectors of length 1. @throws OctomilError as `generate` */
  embed(
    inputs: readonly string[],
    signal: AbortSignal,
  ): Promise<{ readonly vectors: readonly Float32Array[]; readonly promptTokens: number }>;
  stop(): Promise<void>;
}
