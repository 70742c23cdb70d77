import type { FinishReason } from '@octomil/inference/engine';
import type { GenerationQuery } from './request.js';

/** What an answer came to. */
export interface GenerationEnd {
  readonly finishReason?: FinishReason | undefined;
  readonly promptTokens?: number | undefined;
  readonly completionTokens?: number | undefined;
  readonly provider?: string | undefined;
  /** Its own name for the generation, where the source has one. */
  readonly sessionId?: string | undefined;
}

export type GenerationPiece =
  | { readonly type: 'text'; readonly text: string }
  | ({ readonly type: 'done' } & GenerationEnd);

/** Somebody who can generate with a certain model. */
export interface TextSource {
  /**
   * The answer as it is generated. Ends with exactly one `done`, or throws.
   *
   * @throws OctomilClientError `stream_interrupted` when it breaks off, and whatever the source refuses with
   */
  pieces(query: GenerationQuery, signal: AbortSignal): AsyncIterable<GenerationPiece>;
  /** The whole answer at once, where that is another request; else the pieces are put together. */
  whole?(query: GenerationQuery, signal: AbortSignal): Promise<{ readonly text: string } & GenerationEnd>;
}

export function finishReasonOf(value: unknown): FinishReason | undefined {
  return value === 'stop' || value === 'length' ? value : undefined;
}

export function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}

export function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

export function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
