import { type ChatMessage, LlamaEngine } from '@octomil/inference/engine';
import type { ServedModels } from '@octomil/inference/models-file';
import { assignTiers, type ModelInfo, QueryRouter, type RoutingDecision } from '@octomil/inference/routing';
import { OctomilError } from '@octomil/shared/errors';
import type { Options } from '../program.js';
import { plain } from '../terminal/plain.js';
import { findModel, ownModelsFile } from './find-model.js';
import { requireEngine } from './require-engine.js';

/** The name under which the choice of the model is left to the router. */
export const AUTO = 'auto';

/** What is to answer: models to try in order, or an answer that needs none. */
export interface Choice {
  readonly names: readonly string[];
  /** Undefined where the model was named. */
  readonly decision: RoutingDecision | undefined;
}

/** Models that a command uses by itself, each in memory from its first question to the end of the command. */
export class LocalModels {
  readonly #models: ServedModels;
  readonly #asked: string | undefined;
  readonly #engines = new Map<string, LlamaEngine>();

  /** @param asked the one that was named; undefined: whichever suits the question */
  constructor(models: ServedModels, asked: string | undefined) {
    this.#models = models;
    this.#asked = asked;
  }

  /** From small to large. */
  get names(): readonly string[] {
    return Object.keys(this.#models);
  }

  /** @param allowDeterministic whether sums and conversions may be answered without a model */
  choose(messages: readonly ChatMessage[], allowDeterministic: boolean): Choice {
    if (this.#asked !== undefined) return { names: [this.#asked], decision: undefined };
    const byPlace = assignTiers(this.names);
    const infos = Object.entries(this.#models).map(
      ([name, { tier, paramB }]): ModelInfo => ({
        name,
        tier: tier ?? byPlace[name]?.tier ?? 'balanced',
        ...(paramB === undefined ? {} : { paramB }),
        loaded: this.#engines.has(name),
      }),
    );
    const decision = new QueryRouter(infos, { enableDeterministic: allowDeterministic }).route(messages);
    return {
      names: decision.deterministicResult === undefined ? [decision.modelName, ...decision.fallbackChain] : [],
      decision,
    };
  }

  /**
   * The first of these that can be loaded; what could not is said on standard error.
   *
   * @throws OctomilError `model_load_failed`, `runtime_unavailable` as the last one; `cancelled`
   */
  async open(
    names: readonly string[],
    signal: AbortSignal,
  ): Promise<{ readonly name: string; readonly engine: LlamaEngine }> {
    let failure: unknown;
    for (const name of names) {
      try {
        return { name, engine: await this.#loaded(name, signal) };
      } catch (error) {
        if (signal.aborted)
          throw new OctomilError('cancelled', 'the model was not loaded to its end', { cause: error });
        if (names.length > 1) {
          process.stderr.write(
            plain(`${name} cannot be used: ${(error as { reason?: unknown }).reason ?? String(error)}\n`),
          );
        }
        failure = error;
      }
    }
    throw failure ?? new OctomilError('internal', 'no model was chosen');
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#engines.values()].map((engine) => engine.stop()));
  }

  async #loaded(name: string, signal: AbortSignal): Promise<LlamaEngine> {
    const engine = this.#engines.get(name) ?? this.#start(name);
    // Large models take minutes: whoever does not want to wait need not.
    const onAbort = (): void => void engine.stop();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal.aborted) onAbort();
      await engine.ready();
      return engine;
    } catch (error) {
      this.#engines.delete(name);
      await engine.stop();
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  #start(name: string): LlamaEngine {
    const source = this.#models[name];
    if (source === undefined) throw new OctomilError('internal', `${name} was never found`);
    const { path: modelPath, contextTokens, threads, gpu, draftModelPath, maxMemoryBytes } = source;
    // One question at a time.
    const engine = new LlamaEngine({
      modelPath,
      contextTokens,
      parallelSequences: 1,
      threads,
      gpu,
      draftModelPath,
      maxMemoryBytes,
    });
    this.#engines.set(name, engine);
    return engine;
  }
}

/**
 * The models that a command was asked to use: the one named, else those of the models file.
 *
 * @param model path or name; `auto` leaves the choice among those of the models file to the router
 * @throws OctomilError `runtime_unavailable` without an engine, `invalid_input` where no model was named and there is no
 * models file; as `findModel`
 */
export async function localModels(
  model: string | undefined,
  options: Options,
  signal: AbortSignal,
): Promise<LocalModels> {
  requireEngine();
  if (model !== undefined && model !== AUTO) {
    const { name, source } = await findModel(model, signal);
    return new LocalModels(await adjusted({ [name]: source }, options, signal), name);
  }
  const own = await ownModelsFile();
  if (own !== undefined) {
    const [only, ...others] = Object.keys(own.models);
    return new LocalModels(await adjusted(own.models, options, signal), others.length === 0 ? only : undefined);
  }
  throw new OctomilError(
    'invalid_input',
    'say which model: the path of a .gguf file, the name of one in the registry, or one of ~/.octomil/models.yaml',
  );
}

/**
 * Models as the options of the command want them run.
 *
 * @throws OctomilError `invalid_input` for one draft for several models
 */
export async function adjusted(models: ServedModels, options: Options, signal: AbortSignal): Promise<ServedModels> {
  const { context, threads, draft, parallel } = options;
  if (draft !== undefined && Object.keys(models).length > 1) {
    throw new OctomilError('invalid_input', '--draft is for one model; name the drafts of several in the models file');
  }
  const changes = {
    ...(typeof context === 'number' ? { contextTokens: context } : {}),
    ...(typeof threads === 'number' ? { threads } : {}),
    ...(typeof parallel === 'number' ? { parallelSequences: parallel } : {}),
    ...(typeof draft === 'string' ? { draftModelPath: (await findModel(draft, signal)).source.path } : {}),
  };
  return Object.fromEntries(Object.entries(models).map(([name, source]) => [name, { ...source, ...changes }]));
}
