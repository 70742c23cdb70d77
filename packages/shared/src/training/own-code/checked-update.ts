import { lstat, readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { flatten, flatView, layoutOf, parseLayout, sameLayout, weightsFromSafetensors } from '@octomil/shared/tensors';
import type { UpdateFile } from '../task.js';
import { writeUpdate } from '../update-file.js';

export interface UpdateToCheck {
  /** For messages: the trainer's name. */
  readonly name: string;
  readonly path: string;
  readonly basePath: string;
  /** What the file holds. */
  readonly given: 'weights' | 'delta';
  /** What is wanted. */
  readonly wanted: 'weights' | 'delta';
  readonly outputPath: string;
}

/** A file of doubles is twice the base; names and metadata come on top. */
const MAX_OVERHEAD_BYTES = 16 * 1_048_576;

/**
 * Takes what a site's own code wrote, checks that it is the base's tensors with finite numbers, and writes it as an update.
 * Tensors may come in any order, as F32, F64, F16 or BF16.
 *
 * @throws OctomilError `training_failed` saying what is wrong by the names of the base alone: text of the site's code does not leave
 */
export async function takeUpdate(update: UpdateToCheck): Promise<UpdateFile> {
  const { name, given, wanted } = update;
  const base = await readFile(update.basePath);
  const layout = parseLayout(base);
  const wrong = (what: string, cause?: unknown): OctomilError =>
    new OctomilError('training_failed', `the site's own code for trainer "${name}" ${what}`, { cause });
  const found = await lstat(update.path).catch(() => undefined);
  if (found?.isFile() !== true) throw wrong('wrote no file update.safetensors');
  if (found.size > base.length * 2 + MAX_OVERHEAD_BYTES) {
    throw wrong(`wrote an update.safetensors of ${found.size} bytes, where the base has ${base.length}`);
  }
  let tensors: ReturnType<typeof weightsFromSafetensors>;
  try {
    tensors = weightsFromSafetensors(await readFile(update.path));
  } catch (cause) {
    throw wrong('wrote an update.safetensors that is no whole safetensors file of floats', cause);
  }
  const known = new Set(layout.tensors.map((tensor) => tensor.name));
  const strangers = tensors.filter((tensor) => !known.has(tensor.name)).length;
  const ours = tensors.filter((tensor) => known.has(tensor.name));
  const difference = sameLayout(layout, layoutOf(ours));
  if (difference !== undefined) throw wrong(`wrote weights of another shape than the base: ${difference}`);
  if (strangers > 0) throw wrong(`wrote ${strangers} tensors that are not part of the model`);
  const flat = flatten(ours);
  const from = flatView(base, layout);
  const sign = given === wanted ? 0 : wanted === 'delta' ? -1 : 1;
  for (let index = 0; index < flat.length; index++) {
    const value = (flat[index] ?? 0) + sign * (sign === 0 ? 0 : (from[index] ?? 0));
    flat[index] = value;
    // After the rounding to single precision: beyond it a double is no number of ours.
    if (!Number.isFinite(flat[index])) {
      const tensor = layout.tensors.find(({ offset, size }) => index >= offset && index < offset + size);
      throw wrong(
        `wrote ${Number.isNaN(value) ? 'NaN' : 'an infinite number'} in tensor "${tensor?.name}"; try a smaller learning rate`,
      );
    }
  }
  return writeUpdate(update.outputPath, async (writer) => {
    await writer.write(layout.headerBytes);
    await writer.write(new Uint8Array(flat.buffer, flat.byteOffset, flat.byteLength));
  });
}
