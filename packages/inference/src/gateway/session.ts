import { randomUUID } from 'node:crypto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { TokenUsage } from '../engine/index.js';
import { eventMetrics, type InferenceEvent, type InferenceEventType, StreamMeter } from '../quality/index.js';
import type { ChatRequest, ReportedUsage } from './backend.js';
import type { Gateway, GatewayCall } from './gateway.js';

/** Of an answer that is gathered before it is passed on. */
const MAX_ANSWER_CHARACTERS = 16 * 1024 * 1024;

export interface SessionOptions {
  readonly gateway: Gateway;
  readonly clock: Clock;
  /** As `GatewayCall.caller`. */
  readonly caller?: string | undefined;
  /** Must neither wait nor throw. */
  readonly record: (event: InferenceEvent) => void;
}

export interface SessionAnswer {
  readonly provider: string;
  readonly finishReason: string;
  readonly usage: TokenUsage;
}

/** One generation with its identifier, its figures and its events. */
export class GenerationSession {
  readonly id: string = randomUUID();
  readonly meter = new StreamMeter();
  readonly #options: SessionOptions;
  readonly #request: ChatRequest;
  readonly #promptCharacters: number;

  constructor(request: ChatRequest, options: SessionOptions) {
    this.#request = request;
    this.#options = options;
    this.#promptCharacters = request.messages.reduce((sum, { content }) => sum + content.length, 0);
  }

  /** Whole milliseconds since it began. */
  get latencyMs(): number {
    return Math.round(this.meter.elapsedMs);
  }

  /** @throws OctomilError as `Gateway.generate`; what was generated until then is recorded */
  async run(call: GatewayCall): Promise<SessionAnswer> {
    const { gateway, caller } = this.#options;
    const { onTexts, onCalls } = call;
    let characters = 0;
    this.#record('generation_started', {});
    try {
      const { provider, finishReason, usage } = await gateway.generate(this.#request, {
        ...call,
        caller,
        onTexts: (texts, from, flow) => {
          this.meter.chunk(texts.length);
          if (!call.streaming) for (const text of texts) characters += text.length;
          if (characters > MAX_ANSWER_CHARACTERS) {
            const limit = `${MAX_ANSWER_CHARACTERS} characters, the limit of an answer in one piece`;
            throw new OctomilError('inference_failed', `${from} wrote more than ${limit}; ask for a stream`);
          }
          onTexts(texts, from, flow);
        },
        ...(onCalls === undefined
          ? {}
          : {
              onCalls: (pieces, from, flow) => {
                this.meter.chunk(pieces.length);
                if (!call.streaming) for (const piece of pieces) characters += piece.arguments.length;
                if (characters > MAX_ANSWER_CHARACTERS) {
                  throw new OctomilError('inference_failed', `${from} called with more than an answer may have`);
                }
                onCalls(pieces, from, flow);
              },
            }),
      });
      const counted = this.#usage(usage);
      this.#record('generation_completed', { usage: counted });
      return { provider, finishReason, usage: counted };
    } catch (error) {
      const { code } = toOctomilError(error);
      const usage = this.#usage({ promptTokens: undefined, completionTokens: undefined });
      this.#record('generation_failed', { errorCode: code, ...(this.meter.chunks === 0 ? {} : { usage }) });
      throw error;
    }
  }

  /** What the backend counted; else four characters and one chunk are taken for a token. */
  #usage({ promptTokens, completionTokens }: ReportedUsage): TokenUsage {
    return {
      promptTokens: promptTokens ?? Math.ceil(this.#promptCharacters / 4),
      completionTokens: completionTokens ?? this.meter.chunks,
      cachedTokens: 0,
      estimated: promptTokens === undefined || completionTokens === undefined,
    };
  }

  #record(type: InferenceEventType, { usage, errorCode }: { usage?: TokenUsage; errorCode?: string }): void {
    const { record, clock } = this.#options;
    record({
      event_type: type,
      session_id: this.id,
      model_id: this.#request.model,
      modality: 'text',
      timestamp_ms: clock.now(),
      ...(errorCode === undefined ? {} : { error_code: errorCode }),
      ...(type === 'generation_started'
        ? {}
        : {
            metrics: {
              ...eventMetrics(this.meter.summary()),
              ...(usage === undefined
                ? {}
                : {
                    prompt_tokens: usage.promptTokens,
                    completion_tokens: usage.completionTokens,
                    usage_estimated: usage.estimated,
                  }),
            },
          }),
    });
  }
}

/** By the names of the wire. */
export function usageJson(usage: TokenUsage): Record<string, unknown> {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    ...(usage.estimated ? { estimated: true } : {}),
  };
}
