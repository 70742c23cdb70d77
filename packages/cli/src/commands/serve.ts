import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { checkGguf } from '@octomil/inference/engine';
import { LlamaEngine, loadModelsFile, openPredictor, type ServedModels, startServe } from '@octomil/inference/serve';
import { OctomilError } from '@octomil/shared/errors';
import { createLogger } from '@octomil/shared/runtime';
import { findModel, ownModelsFile } from '../inference/find-model.js';
import { adjusted } from '../inference/local-models.js';
import { organizationPolicy } from '../inference/organization-policy.js';
import { requireEngine } from '../inference/require-engine.js';
import type { Options } from '../program.js';
import { interruptible } from '../terminal/interrupt.js';
import { print } from '../terminal/output.js';
import { parentGone } from '../terminal/parent.js';

/** Serves until it is stopped. What cannot be served is said before it listens, or as soon as it is known. */
export async function serve(options: Options, model: string | undefined): Promise<void> {
  const { signal, release } = interruptible();
  const stopped = AbortSignal.any([signal, parentGone()]);
  const logger = createLogger('octomil-serve', 'warn');
  try {
    const stateDir = await stateFolder(options['stateDir']);
    const models = await adjusted(await modelsToServe(options, model, stateDir, stopped), options, stopped);
    const names = Object.keys(models);
    if (names.length > 0) requireEngine();
    for (const [, { path, draftModelPath }] of Object.entries(models)) {
      await checkGguf(path);
      if (draftModelPath !== undefined) await checkGguf(draftModelPath);
    }
    const autoRoute = options['autoRoute'] === true;
    if (autoRoute && names.length < 2) {
      throw new OctomilError('config_invalid', '--auto-route chooses among models; name two or more with --models');
    }
    const policy = autoRoute ? await organizationPolicy() : undefined;
    const engines: LlamaEngine[] = [];
    const { apiKey, cors, allowHost, idleUnload } = options;
    const server = await startServe({
      models,
      host: String(options['host']),
      port: Number(options['port']),
      apiKey: typeof apiKey === 'string' ? apiKey : process.env['OCTOMIL_SERVE_KEY'],
      corsOrigins: (cors as string[] | undefined) ?? [],
      allowedHosts: (allowHost as string[] | undefined) ?? [],
      maxQueueDepth: Number(options['maxQueue']),
      preload: autoRoute || names.length === 1,
      logger,
      openEngine: ({ path: modelPath, tier: _, paramB: __, ...settings }) => {
        const engine = new LlamaEngine({ ...settings, modelPath, logger });
        engines.push(engine);
        return engine;
      },
      ...(stateDir === undefined ? {} : { predictor: openPredictor({ stateDir, logger }) }),
      ...(policy === undefined ? {} : { policy }),
      ...(typeof idleUnload === 'number' ? { idleUnloadMs: idleUnload * 1_000 } : {}),
    });
    try {
      // A model that does not load is no reason to say that it is served.
      await Promise.race([Promise.all(engines.map((engine) => engine.ready())), untilAborted(stopped)]);
      if (!stopped.aborted) {
        const served = { url: server.url, baseUrl: `${server.url}/v1`, models: names, stateDir: stateDir ?? null };
        await print(options['json'], served, () => greeting(served));
      }
      await untilAborted(stopped);
    } finally {
      await server.stop();
    }
  } finally {
    release();
  }
}

async function modelsToServe(
  { models: given }: Options,
  model: string | undefined,
  stateDir: string | undefined,
  signal: AbortSignal,
): Promise<ServedModels> {
  const fromFile = typeof given === 'string' && /\.ya?ml$/i.test(given) ? await loadModelsFile(resolve(given)) : {};
  const listed =
    typeof given === 'string' && !/\.ya?ml$/i.test(given) ? given.split(',').map((name) => name.trim()) : [];
  const named = [...(model === undefined ? [] : [model]), ...listed].filter((name) => !Object.hasOwn(fromFile, name));
  const found: Record<string, ServedModels[string]> = {};
  for (const wanted of named) {
    const { name, source } = await findModel(wanted, signal);
    if (Object.hasOwn(found, name)) {
      throw new OctomilError('config_invalid', `two models are called ${name}; name them apart in a models file`);
    }
    found[name] = source;
  }
  const models = { ...found, ...fromFile };
  if (Object.keys(models).length > 0 || stateDir !== undefined) return models;
  const own = await ownModelsFile();
  if (own !== undefined) return own.models;
  throw new OctomilError(
    'config_invalid',
    'there is nothing to serve: name a model (a .gguf file, or a name), --models FILE, or the --state-dir of an agent',
  );
}

async function stateFolder(given: unknown): Promise<string | undefined> {
  if (typeof given !== 'string') return undefined;
  const folder = resolve(given);
  if ((await stat(folder).catch(() => undefined))?.isDirectory()) return folder;
  throw new OctomilError('config_invalid', `${folder} is no folder; --state-dir is state_dir of an agent.yaml`);
}

function greeting({
  baseUrl,
  models,
  stateDir,
}: {
  baseUrl: string;
  models: string[];
  stateDir: string | null;
}): string {
  const routed = models.length > 1 ? [`auto           chooses among them by the question`] : [];
  return [
    `Listening on   ${baseUrl}`,
    ...(models.length === 0 ? [] : [`Models         ${models.join(', ')}`, ...routed]),
    ...(stateDir === null ? [] : [`/v1/predict    what the agent of ${stateDir} has activated`]),
    '',
    'Ctrl-C stops it.',
  ].join('\n');
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    signal.addEventListener('abort', () => done(), { once: true });
  });
}
