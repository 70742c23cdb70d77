import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Type } from 'typebox';
import { Value } from 'typebox/value';

/** A version of a model whose files are on this machine. */
export interface ModelVersion {
  readonly modelId: string;
  readonly modelName: string;
  readonly versionId: string;
  readonly version: string;
  readonly documentPath: string;
  readonly weightsPath: string;
  /** Undefined where the version has none. */
  readonly onnxPath: string | undefined;
}

const Pointer = Type.Object({
  formatVersion: Type.Literal(1),
  modelId: Type.String(),
  modelName: Type.String(),
  active: Type.Object({
    versionId: Type.String(),
    version: Type.String(),
    artifacts: Type.Array(Type.Object({ format: Type.String(), path: Type.String() })),
  }),
});

/**
 * What an agent has activated, as its state folder says now. A model whose `active.json` cannot be read, or whose version
 * has no `model.json` and `safetensors`, is left out.
 */
export async function readActiveVersions(stateDir: string): Promise<ModelVersion[]> {
  const deployed = join(stateDir, 'deployed');
  const folders = await readdir(deployed).catch(() => []);
  const versions = await Promise.all(folders.map((folder) => readActive(join(deployed, folder))));
  return versions.filter((version) => version !== undefined);
}

async function readActive(folder: string): Promise<ModelVersion | undefined> {
  let pointer: unknown;
  try {
    pointer = JSON.parse(await readFile(join(folder, 'active.json'), 'utf8'));
  } catch {
    return undefined;
  }
  if (!Value.Check(Pointer, pointer)) return undefined;
  const { modelId, modelName, active } = pointer;
  const pathOf = (format: string): string | undefined => {
    const path = active.artifacts.find((artifact) => artifact.format === format)?.path;
    return path === undefined || path.split(/[/\\]/).includes('..') ? undefined : join(folder, path);
  };
  const documentPath = pathOf('model.json');
  const weightsPath = pathOf('safetensors');
  if (documentPath === undefined || weightsPath === undefined) return undefined;
  return {
    modelId,
    modelName,
    versionId: active.versionId,
    version: active.version,
    documentPath,
    weightsPath,
    onnxPath: pathOf('onnx'),
  };
}
