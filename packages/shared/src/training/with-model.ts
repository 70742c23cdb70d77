import { readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { type Architecture, type BuiltModel, buildModel, setFlat } from '@octomil/shared/models';
import { flatView, parseLayout, sameLayout } from '@octomil/shared/tensors';

export interface ReadyModel {
  readonly built: BuiltModel;
  /** The weights of the file, in the order of its layout. */
  readonly base: Float32Array;
  /** Name of the tfjs backend. */
  readonly backend: string;
}

/**
 * Builds the model with the weights of a file, and frees it afterwards. Loads tfjs.
 *
 * @param width numbers in one encoded row
 * @throws OctomilError `data_mismatch` when the weights are of another model, `corrupt_file`; as `buildModel`
 */
export async function withModel<R>(
  architecture: Architecture,
  width: number,
  weightsPath: string,
  use: (ready: ReadyModel) => Promise<R>,
): Promise<R> {
  const bytes = await readFile(weightsPath);
  const layout = parseLayout(bytes);
  const { selectBackend } = await import('@octomil/shared/compute');
  const backend = await selectBackend();
  const built = await buildModel(backend, architecture, width);
  try {
    const difference = sameLayout(built.layout, layout);
    if (difference !== undefined) {
      throw new OctomilError(
        'data_mismatch',
        `the weights do not fit the architecture ${architecture.name} with ${width} inputs: ${difference}`,
      );
    }
    const base = flatView(bytes, layout);
    setFlat(built, base);
    return await use({ built, base, backend: backend.name });
  } finally {
    built.dispose();
  }
}
