import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { loadModelsFile, type ServedModelSource } from '@octomil/inference/models-file';
import { clientError } from './client-failure.js';
import { isModelPath } from './places.js';

/** A model on this machine. */
export interface ModelFile {
  readonly path: string;
  readonly sizeBytes: number;
  /** How the models file wants it run. */
  readonly settings: Omit<ServedModelSource, 'path'>;
}

/**
 * The file of a model: the path itself where it ends in `.gguf`, else what the models file has under the name.
 *
 * @returns why there is none, where there is none
 * @throws OctomilClientError `config_invalid` for a models file that is none
 */
export async function locateModel(model: string, modelsFile: string | undefined): Promise<ModelFile | string> {
  if (isModelPath(model)) return fileAt(resolve(model), {}, `there is no file ${resolve(model)}`);
  if (modelsFile === undefined) return 'there is no models file';
  const models = await loadModelsFile(modelsFile).catch((thrown: unknown) => {
    throw clientError(thrown, 'config_invalid');
  });
  const entry = Object.hasOwn(models, model) ? models[model] : undefined;
  if (entry === undefined) return `${modelsFile} does not name "${model}"`;
  const { path, ...settings } = entry;
  return fileAt(path, settings, `${modelsFile} points at ${path}, where there is no file`);
}

async function fileAt(path: string, settings: ModelFile['settings'], otherwise: string): Promise<ModelFile | string> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true ? { path, sizeBytes: found.size, settings } : otherwise;
}
