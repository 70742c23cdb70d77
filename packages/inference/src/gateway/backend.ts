import type { ChatMessage, ResponseFormat, ToolFunction } from '../engine/index.js';

/** What a model server is asked to write. Undefined leaves a choice to the server. */
export interface ChatRequest {
  readonly model: string;
  readonly messages: readonly ChatMessage[];
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly maxTokens?: number;
  readonly stop?: readonly string[];
  readonly seed?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly responseFormat?: ResponseFormat;
  /** Functions that the model may call; whether it does is its choice. */
  readonly tools?: readonly ToolFunction[];
}

/** A call, or a piece of one: the first of each has a name, and arguments are put together from all. */
export interface CallPiece {
  readonly index: number;
  readonly id?: string;
  readonly name?: string;
  readonly arguments: string;
}

/** Holds a stream back while its reader is slow. */
export interface FlowControl {
  pause(): void;
  resume(): void;
}

export interface BackendCall {
  /** Aborts the request at the server, at any time. */
  readonly signal: AbortSignal;
  /** Which limits hold: those of a stream, or one for the whole answer. */
  readonly streaming: boolean;
  /** The texts of one read from the network, in order; never empty. Throwing ends the request. */
  readonly onTexts: (texts: readonly string[], flow: FlowControl) => void;
  /** Calls of the functions of the request; left out where it names none. */
  readonly onCalls?: ((pieces: readonly CallPiece[], flow: FlowControl) => void) | undefined;
}

/** What the server counted itself; undefined where it did not say. */
export interface ReportedUsage {
  readonly promptTokens: number | undefined;
  readonly completionTokens: number | undefined;
}

export interface Generated {
  /** `stop`, `length`, or what else the server said. */
  readonly finishReason: string;
  readonly usage: ReportedUsage;
}

export interface Embedded {
  readonly vectors: readonly (readonly number[])[];
  readonly promptTokens: number | undefined;
}

export interface BackendHealth {
  readonly version: string | undefined;
  readonly models: readonly string[];
}

/** A server of models, by the wire it speaks. */
export interface InferenceBackend {
  /** `ollama` or `openai`, as `provider` in answers. */
  readonly name: string;
  /** Where it is, without secrets. */
  readonly origin: string;
  /**
   * Resolves only when the server said that the answer is whole.
   *
   * @throws OctomilError `invalid_input`, `context_too_large`, `model_not_found`, `rate_limited` for what the server
   * refused; `runtime_unavailable` for a server that is not set up right; `network_unavailable`, `request_timeout`,
   * `inference_failed`, `stream_interrupted` for one that fails; the signal's reason
   */
  generate(request: ChatRequest, call: BackendCall): Promise<Generated>;
  /** @throws OctomilError as `generate` */
  embed(model: string, inputs: readonly string[], signal: AbortSignal): Promise<Embedded>;
  /** @throws OctomilError as `generate` */
  health(signal: AbortSignal): Promise<BackendHealth>;
  stop(): Promise<void>;
}
