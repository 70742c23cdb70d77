/** One turn of a conversation. Content is plain text: it is never read as control tokens. */
export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant' | 'tool';
  readonly content: string;
  readonly name?: string;
  /** Of the assistant: what it called after its content. */
  readonly toolCalls?: readonly ToolCall[];
  /** Of a tool: which call it answers. */
  readonly toolCallId?: string;
}

/** A function that was called. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** A JSON object as text. */
  readonly arguments: string;
}

/** A function that the program which asks can run. */
export interface ToolFunction {
  /** Letters, digits, `_` and `-`. */
  readonly name: string;
  readonly description: string | undefined;
  /** A JSON schema of an object: arguments are held to it. */
  readonly parameters: Readonly<Record<string, unknown>>;
}

/** What may be called instead of, or after, an answer. */
export interface ToolUse {
  readonly functions: readonly ToolFunction[];
  /** `auto`: the model decides; `required`: it calls one of them; a name: that one. */
  readonly choice: 'auto' | 'required' | { readonly name: string };
  /** Whether one answer may call several times. */
  readonly parallel: boolean;
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
  /** Undefined where nothing may be called. */
  readonly tools?: ToolUse;
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

/**
 * `stop`: end of text, a stop sequence or a finished grammar; `length`: `maxTokens` or the context was reached, and the
 * last call may be cut; `tool_calls`: functions were called, each with whole arguments.
 */
export type FinishReason = 'stop' | 'length' | 'tool_calls';

/** What a model says. Calls come after the text, one after the other, counted from 0. */
export type Said =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'call'; readonly index: number; readonly name: string }
  /** A piece of the arguments of the call that was the last to begin. */
  | { readonly type: 'arguments'; readonly index: number; readonly text: string };

export type GenerationEvent =
  | Said
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
