import type { FinishReason } from '@octomil/inference/engine';

export const ENGINES = ['serve', 'llama.cpp', 'gateway'] as const;
/** `serve`: an `octomil serve` on this machine; `llama.cpp`: a process of this program; `gateway`: the coordinator. */
export type EngineName = (typeof ENGINES)[number];

/** Where a generation ran, and why there. */
export interface RouteDecision {
  readonly target: 'device' | 'cloud';
  readonly engine: EngineName;
  readonly reason: string;
  /** What was looked at before, in order, and why it was not taken. */
  readonly passedOver: readonly { readonly engine: EngineName; readonly reason: string }[];
}

/** How a generation went, as it was here. What is not known is undefined; nothing is guessed. */
export interface PredictionMetrics {
  readonly route: RouteDecision;
  readonly sessionId: string;
  /** From the question to the end of the answer. */
  readonly latencyMs: number;
  /** Undefined where the answer came in one piece, as the next three are. */
  readonly timeToFirstChunkMs: number | undefined;
  /** Mean pause between two chunks. */
  readonly meanChunkLatencyMs: number | undefined;
  readonly chunksPerSecond: number | undefined;
  readonly totalChunks: number;
  readonly promptTokens: number | undefined;
  readonly completionTokens: number | undefined;
  /** Of the answer, over the whole time. */
  readonly tokensPerSecond: number | undefined;
  /** What generated: `ollama` behind the gateway, say. */
  readonly provider: string | undefined;
}

/** An answer. As text it is what was generated. */
export class Prediction {
  readonly model: string;
  readonly text: string;
  /** `length`: the text was cut at `maxTokens` or at the end of the model's context. */
  readonly finishReason: FinishReason | undefined;
  readonly metrics: PredictionMetrics;

  constructor(fields: Pick<Prediction, 'model' | 'text' | 'finishReason' | 'metrics'>) {
    this.model = fields.model;
    this.text = fields.text;
    this.finishReason = fields.finishReason;
    this.metrics = fields.metrics;
  }

  toString(): string {
    return this.text;
  }
}

/** A piece of an answer while it is generated. As text it is what was generated. */
export class PredictionChunk {
  /** From 0. */
  readonly index: number;
  readonly text: string;
  /** Since the piece before it, or since the question. */
  readonly latencyMs: number;

  constructor(index: number, text: string, latencyMs: number) {
    this.index = index;
    this.text = text;
    this.latencyMs = latencyMs;
  }

  toString(): string {
    return this.text;
  }
}

/** What remains to be said once the last chunk is there. */
export interface PredictionEnd {
  readonly finishReason: FinishReason | undefined;
  readonly metrics: PredictionMetrics;
}
