import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { loadModelsFile, type ServedModelSource, type ServedModels } from '@octomil/inference/models-file';
import { OctomilError } from '@octomil/shared/errors';
import { homeFolder } from './home-folder.js';
import { pullGguf } from './pull-gguf.js';

/** A model of this machine, with the name by which answers call it. */
export interface FoundModel {
  readonly name: string;
  readonly source: ServedModelSource;
}

/**
 * The models file of this person: `OCTOMIL_MODELS_FILE`, else `~/.octomil/models.yaml` where it exists.
 *
 * @returns undefined where there is none
 * @throws OctomilError `config_invalid` for one that cannot be read or used
 */
export async function ownModelsFile(): Promise<{ path: string; models: ServedModels } | undefined> {
  const named = process.env['OCTOMIL_MODELS_FILE'];
  const path = named || join(homeFolder(), 'models.yaml');
  if (!named && !existsSync(path)) return undefined;
  return { path, models: await loadModelsFile(path) };
}

/**
 * A model by its path (`….gguf`, or what begins with `.`, `/` or `~/`), else by its name in the models file, else by its
 * name in the registry (`name` or `name:version`), from where it is pulled once.
 *
 * @throws OctomilError `not_found` for a path without a file, `model_not_found` for an unknown name; as `pullGguf`
 */
export async function findModel(model: string, signal: AbortSignal): Promise<FoundModel> {
  if (isPath(model)) return { name: modelName(model), source: { path: await filePath(model) } };
  const own = await ownModelsFile();
  const source = own !== undefined && Object.hasOwn(own.models, model) ? own.models[model] : undefined;
  if (source !== undefined) return { name: model, source };
  try {
    return { name: model, source: { path: await pullGguf(model, signal) } };
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code !== 'model_not_found' && code !== 'invalid_api_key' && code !== 'network_unavailable') throw error;
    throw new OctomilError(
      'model_not_found',
      `there is no model "${model.slice(0, 200)}": ${whereItIsNot(own, error)}`,
      {
        cause: error,
      },
    );
  }
}

/** `phi.gguf` is called `phi`. */
export function modelName(path: string): string {
  return basename(path).replace(/\.gguf$/i, '');
}

function isPath(model: string): boolean {
  return /\.gguf$/i.test(model) || /^(?:\.{0,2}|~)[/\\]/.test(model) || /^[A-Za-z]:\\/.test(model);
}

async function filePath(model: string): Promise<string> {
  const path = resolve(model.startsWith('~/') ? join(homeFolder(), '..', model.slice(2)) : model);
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile()) return path;
  throw new OctomilError('not_found', found === undefined ? `there is no file ${path}` : `${path} is no file`);
}

function whereItIsNot(own: Awaited<ReturnType<typeof ownModelsFile>>, error: unknown): string {
  const names = Object.keys(own?.models ?? {});
  const inFile =
    own === undefined
      ? 'there is no models file (~/.octomil/models.yaml, or OCTOMIL_MODELS_FILE)'
      : `${own.path} has ${names.slice(0, 10).join(', ')}${names.length > 10 ? ', …' : ''}`;
  const { code, reason } = error as { code?: unknown; reason?: unknown };
  const inRegistry =
    code === 'model_not_found'
      ? 'the registry does not have it'
      : `the registry could not be asked (${String(reason)})`;
  return `it is no path of a .gguf file, ${inFile}, and ${inRegistry}`;
}
