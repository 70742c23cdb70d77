import {
  type EventReporter,
  eventMetrics,
  type InferenceEvent,
  type InferenceEventMetrics,
  StreamMeter,
} from '@octomil/inference/quality';
import { OctomilClientError } from '../client-error.js';
import { randomUuid } from '../http-client.js';
import { clientError } from './client-failure.js';
import { isModelPath, type NoPlace, type Place, type RouteOptions } from './places.js';
import { PredictionChunk, type PredictionEnd, type PredictionMetrics, type RouteDecision } from './prediction.js';
import type { GenerationQuery } from './request.js';
import { interrupted } from './server-events.js';
import type { GenerationEnd, GenerationPiece, TextSource } from './text-source.js';

export interface GeneratorContext {
  readonly places: { of(model: string, options: RouteOptions): AsyncIterable<Place | NoPlace> };
  /** Hears of what is generated on the device; the gateway notes its own. */
  readonly reporter: Pick<EventReporter, 'report'> | undefined;
  readonly deviceId: string | undefined;
  /** Milliseconds of a clock that only goes forward. */
  readonly monotonicMs: () => number;
  /** Milliseconds since the epoch. */
  readonly nowMs: () => number;
}

export interface GeneratorOptions extends RouteOptions {
  readonly signal: AbortSignal;
  /** One answer in one piece, where that is another request. */
  readonly whole: boolean;
}

/** Failures of a place that another one may not have. What the question itself is wrong with, it is wrong with everywhere. */
const ELSEWHERE: ReadonlySet<string> = new Set([
  ...['network_unavailable', 'runtime_unavailable', 'model_load_failed', 'insufficient_memory', 'model_not_found'],
  ...[
    'stream_interrupted',
    'inference_failed',
    'rate_limited',
    'server_error',
    'not_found',
    'authentication_failed',
    'invalid_api_key',
  ],
]);

/**
 * Generates in the first place that can. When one fails before its first piece, the next is asked; after that, the failure
 * is the caller's to see.
 *
 * @throws OctomilClientError `runtime_unavailable` when there is no place, `stream_interrupted`, or what the last one threw
 */
export async function* generate(
  context: GeneratorContext,
  model: string,
  query: GenerationQuery,
  options: GeneratorOptions,
): AsyncGenerator<PredictionChunk, PredictionEnd, undefined> {
  const passedOver: { engine: Place['engine']; reason: string }[] = [];
  let failure: OctomilClientError | undefined;
  for await (const place of context.places.of(model, options)) {
    const { engine } = place;
    if ('unfit' in place) {
      passedOver.push({ engine, reason: place.unfit });
      continue;
    }
    const target = engine === 'gateway' ? 'cloud' : 'device';
    const session = new Session(context, model, options, {
      target,
      engine,
      reason: place.reason,
      passedOver: [...passedOver],
    });
    try {
      return yield* session.run(place, query);
    } catch (thrown) {
      const error = clientError(thrown, 'inference_failed');
      if (session.hasBegun || options.signal.aborted || !ELSEWHERE.has(error.code)) throw error;
      failure = error;
      passedOver.push({ engine, reason: `it failed: ${error.reason}` });
    }
  }
  throw nowhere(model, passedOver, failure);
}

/** One try of one place. */
class Session {
  readonly #context: GeneratorContext;
  readonly #model: string;
  readonly #options: GeneratorOptions;
  readonly #route: RouteDecision;
  readonly #id = randomUuid();
  readonly #meter: StreamMeter;

  constructor(context: GeneratorContext, model: string, options: GeneratorOptions, route: RouteDecision) {
    this.#context = context;
    this.#model = model;
    this.#options = options;
    this.#route = route;
    this.#meter = new StreamMeter(context.monotonicMs);
  }

  get hasBegun(): boolean {
    return this.#meter.chunks > 0;
  }

  async *run(place: Place, query: GenerationQuery): AsyncGenerator<PredictionChunk, PredictionEnd, undefined> {
    const { signal, whole } = this.#options;
    let outcome: Partial<InferenceEvent> = { event_type: 'generation_failed', error_code: 'cancelled' };
    this.#report({ event_type: 'generation_started' });
    try {
      const { source, release } = await place.open();
      try {
        let lastMs = 0;
        for await (const piece of piecesOf(source, query, signal, whole)) {
          if (piece.type === 'done') {
            outcome = { event_type: 'generation_completed', metrics: this.#figures(piece) };
            return { finishReason: piece.finishReason, metrics: this.#metrics(piece, whole && isWhole(source)) };
          }
          const index = this.#meter.chunks;
          this.#meter.chunk();
          const atMs = this.#meter.elapsedMs;
          yield new PredictionChunk(index, piece.text, atMs - lastMs);
          lastMs = atMs;
        }
        throw interrupted('the generation ended without saying so');
      } finally {
        release();
      }
    } catch (thrown) {
      const error = clientError(signal.aborted ? signal.reason : thrown, 'inference_failed');
      outcome = { event_type: 'generation_failed', error_code: error.code };
      throw error;
    } finally {
      this.#report({ metrics: eventMetrics(this.#meter.summary()), ...outcome });
    }
  }

  #metrics(end: GenerationEnd, inOnePiece: boolean): PredictionMetrics {
    const { ttfcMs, meanChunkLatencyMs, totalChunks, totalDurationMs, throughput } = this.#meter.summary();
    const { promptTokens, completionTokens, provider, sessionId } = end;
    return {
      route: this.#route,
      sessionId: sessionId ?? this.#id,
      latencyMs: totalDurationMs,
      timeToFirstChunkMs: inOnePiece ? undefined : (ttfcMs ?? undefined),
      meanChunkLatencyMs: meanChunkLatencyMs ?? undefined,
      chunksPerSecond: inOnePiece ? undefined : throughput,
      totalChunks,
      promptTokens,
      completionTokens,
      tokensPerSecond:
        completionTokens === undefined || totalDurationMs === 0
          ? undefined
          : (completionTokens * 1000) / totalDurationMs,
      provider,
    };
  }

  #figures({ promptTokens, completionTokens }: GenerationEnd): InferenceEventMetrics {
    return {
      ...eventMetrics(this.#meter.summary()),
      ...(promptTokens === undefined ? {} : { prompt_tokens: promptTokens }),
      ...(completionTokens === undefined ? {} : { completion_tokens: completionTokens }),
    };
  }

  #report(fields: Partial<InferenceEvent>): void {
    const { reporter, deviceId, nowMs } = this.#context;
    // A path of this machine is nobody else's business, and names no model.
    if (reporter === undefined || this.#route.target === 'cloud' || isModelPath(this.#model)) return;
    const { version } = this.#options;
    reporter.report({
      event_type: 'generation_started',
      session_id: this.#id,
      model_id: this.#model,
      ...(version === undefined ? {} : { version }),
      ...(deviceId === undefined ? {} : { device_id: deviceId }),
      modality: 'text',
      timestamp_ms: nowMs(),
      ...fields,
    });
  }
}

function isWhole(source: TextSource): boolean {
  return source.whole !== undefined;
}

async function* piecesOf(
  source: TextSource,
  query: GenerationQuery,
  signal: AbortSignal,
  whole: boolean,
): AsyncGenerator<GenerationPiece, void, undefined> {
  if (!whole || source.whole === undefined) {
    yield* source.pieces(query, signal);
    return;
  }
  const { text, ...end } = await source.whole(query, signal);
  if (text !== '') yield { type: 'text', text };
  yield { type: 'done', ...end };
}

function nowhere(
  model: string,
  passedOver: readonly { engine: string; reason: string }[],
  failure: OctomilClientError | undefined,
): OctomilClientError {
  const reasons = passedOver.map(({ engine, reason }) => `${engine}: ${reason}`).join('; ');
  const details = { ...failure?.details, passedOver };
  if (failure === undefined) {
    return new OctomilClientError('runtime_unavailable', `"${model}" runs nowhere. ${reasons}`, { details });
  }
  if (passedOver.length < 2) return failure;
  return new OctomilClientError(failure.code, `"${model}" could not be run. ${reasons}`, {
    status: failure.status,
    requestId: failure.requestId,
    retryAfterSeconds: failure.retryAfterSeconds,
    details,
    cause: failure,
  });
}
