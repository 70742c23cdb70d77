import { type ErrorCode, OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { FinishReason, GenerationRequest, Said, TokenUsage } from '../engine/index.js';
import type { ServedModel } from './served-model.js';

/** Who hears the choices of a request. */
export interface Audience {
  /** Whether something was sent that cannot be taken back. */
  readonly begun: boolean;
  /** A model begins, or the next one after it failed: what was heard before does not count. */
  start(model: ServedModel): void;
  /** A promise holds this choice back until the reader has caught up. */
  say(choice: number, said: Said): Promise<void> | undefined;
  /** A choice is whole. */
  finish(choice: number, reason: FinishReason): void;
}

export interface RunResult {
  readonly model: ServedModel;
  readonly usage: TokenUsage;
  /** Whether a draft model proposed tokens. */
  readonly speculative: boolean;
  /** Whether another model was to answer. */
  readonly fellBack: boolean;
}

/** Failures of one model that another may not have. */
const FALLBACK_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'model_load_failed',
  'inference_failed',
  'runtime_unavailable',
  'insufficient_memory',
  'rate_limited',
  'request_timeout',
  'context_too_large',
]);

/**
 * Generates all choices of a request at once, each in a slot of its own, with the first model that can; once the audience
 * has heard something, no other model takes over.
 *
 * @throws OctomilError of the last model that was tried
 */
export async function runCompletion(
  models: readonly ServedModel[],
  requests: readonly GenerationRequest[],
  audience: Audience,
  signal: AbortSignal,
): Promise<RunResult> {
  let failure: OctomilError | undefined;
  for (const [index, model] of models.entries()) {
    try {
      return { ...(await attempt(model, requests, audience, signal)), model, fellBack: index > 0 };
    } catch (thrown) {
      failure = toOctomilError(thrown, 'inference_failed');
      if (audience.begun || signal.aborted || !FALLBACK_CODES.has(failure.code)) break;
    }
  }
  throw failure ?? new OctomilError('internal', 'a request has no model');
}

async function attempt(
  model: ServedModel,
  requests: readonly GenerationRequest[],
  audience: Audience,
  signal: AbortSignal,
): Promise<Pick<RunResult, 'usage' | 'speculative'>> {
  if (requests.length > model.slots) {
    throw new OctomilError(
      'invalid_input',
      `n asks for ${requests.length} answers; ${model.name} gives at most ${model.slots} at once`,
      { details: { field: 'n', limit: model.slots } },
    );
  }
  audience.start(model);
  const failed = new AbortController();
  const both = AbortSignal.any([signal, failed.signal]);
  const results = await Promise.allSettled(
    requests.map(async (request, choice) => {
      try {
        return await speak(model, request, both, {
          say: (said) => audience.say(choice, said),
          finish: (reason) => audience.finish(choice, reason),
        });
      } catch (error) {
        // Without one of them the others are of no use.
        failed.abort(error);
        throw error;
      }
    }),
  );
  if (failed.signal.aborted) throw failed.signal.reason;
  const ends = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  return {
    usage: {
      promptTokens: ends[0]?.usage.promptTokens ?? 0,
      completionTokens: ends.reduce((sum, { usage }) => sum + usage.completionTokens, 0),
      cachedTokens: Math.max(0, ...ends.map(({ usage }) => usage.cachedTokens)),
      estimated: ends.some(({ usage }) => usage.estimated),
    },
    speculative: ends.some(({ drafted }) => drafted > 0),
  };
}

async function speak(
  model: ServedModel,
  request: GenerationRequest,
  signal: AbortSignal,
  choice: {
    readonly say: (said: Said) => Promise<void> | undefined;
    readonly finish: (reason: FinishReason) => void;
  },
): Promise<{ readonly usage: TokenUsage; readonly drafted: number }> {
  for await (const event of model.generate(request, signal)) {
    if (event.type !== 'done') await choice.say(event);
    else {
      choice.finish(event.finishReason);
      return { usage: event.usage, drafted: event.speculative?.drafted ?? 0 };
    }
  }
  throw new OctomilError('inference_failed', `${model.name} ended without saying why`);
}
