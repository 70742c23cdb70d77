// What needs Node and a native engine. Loaded by the name `#on-device` with the first generation that may run here.
import { openLlamaEngine } from '@octomil/inference/engine';
import { RequestQueue } from '@octomil/inference/queue';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { clientError } from './client-failure.js';
import type { LoadedSource } from './model-cache.js';
import type { ModelFile } from './model-files.js';
import type { GenerationQuery } from './request.js';
import type { GenerationPiece } from './text-source.js';

export { locateModel } from './model-files.js';

/** A program that sends more at once than this is told so. */
const MAX_WAITING = 1024;
const LONGEST_MS = 2 ** 31 - 1;

/** @returns why models cannot run here, or undefined where they can */
export async function missingEngine(): Promise<string | undefined> {
  try {
    // By a variable: it is an optional dependency, which the compiler need not find.
    const name = 'node-llama-cpp';
    import.meta.resolve(name);
    return undefined;
  } catch {
    return 'node-llama-cpp is not installed; add it with "npm install node-llama-cpp"';
  }
}

/** @throws OctomilClientError `model_load_failed`, `runtime_unavailable`, `insufficient_memory` */
export async function loadOnDevice(file: ModelFile): Promise<LoadedSource> {
  const { path: modelPath, settings } = file;
  const options = { ...settings, modelPath, logger: silentLogger, clock: systemClock };
  const engine = await openLlamaEngine(options).catch((thrown: unknown) => {
    throw clientError(thrown, 'model_load_failed');
  });
  // The engine refuses what it has no sequence for; here it waits.
  const queue = new RequestQueue({
    concurrency: engine.description.parallelSequences,
    maxDepth: MAX_WAITING,
    timeoutMs: LONGEST_MS,
  });
  async function* pieces(
    { messages, parameters }: GenerationQuery,
    signal: AbortSignal,
  ): AsyncGenerator<GenerationPiece> {
    const request = {
      input: { messages },
      maxTokens: parameters.maxTokens,
      temperature: parameters.temperature ?? 0.7,
      topP: parameters.topP ?? 0.9,
      stop: typeof parameters.stop === 'string' ? [parameters.stop] : (parameters.stop ?? []),
      seed: parameters.seed,
      responseFormat: parameters.responseFormat ?? { type: 'text' as const },
    };
    const events = queue.submitGenerateStream(request, {
      generateStreamFn: (asked, turn) => engine.generate(asked, turn.signal),
      signal,
    });
    for await (const event of events) {
      if (event.type === 'text') yield event;
      else if (event.type === 'done')
        yield { type: 'done', finishReason: event.finishReason, ...event.usage, provider: engine.description.engine };
    }
  }
  const stop = async (): Promise<void> => {
    // Not waited for: a stream that somebody began to read and forgot never takes its end.
    void queue.stop({ abortActive: true });
    await engine.stop();
  };
  return { pieces, stop };
}
