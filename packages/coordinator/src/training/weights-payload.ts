import { OctomilError } from '@octomil/shared/errors';
import {
  encodeWeights,
  type NamedTensor,
  type ParameterLayout,
  unflatten,
  weightsFromSafetensors,
} from '@octomil/shared/tensors';

/** What the first bytes of an uploaded file say it is. */
export type PayloadFormat = 'safetensors' | 'torch-zip' | 'npy';

const ZIP = [0x50, 0x4b, 0x03, 0x04];
const NPY = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];

export function payloadFormat(start: Uint8Array): PayloadFormat {
  const begins = (magic: readonly number[]): boolean => magic.every((byte, index) => start[index] === byte);
  if (begins(ZIP)) return 'torch-zip';
  return begins(NPY) ? 'npy' : 'safetensors';
}

/**
 * Reads uploaded weights and writes them as the coordinator keeps them: one float32 safetensors file, tensors in the order
 * of their names. Nothing is unpickled: the reader of torch zips knows tensors and plain numbers only.
 *
 * - safetensors (F64, F32, F16, BF16) and torch zips hold tensors by name.
 * - An `.npy` file holds one array without a name: the one tensor of a model that has only one, or all parameters as one
 *   vector, tensors in the order of their names.
 *
 * @param layout of the base; names and shapes are compared with it by whoever takes the result
 * @throws `update_rejected` for a file that is none of these, or an array that does not fit
 */
export async function canonicalWeights(bytes: Uint8Array, layout: ParameterLayout): Promise<Uint8Array> {
  try {
    const format = payloadFormat(bytes);
    if (format === 'safetensors') return encodeWeights(weightsFromSafetensors(bytes));
    const formats = await import('@octomil/shared/formats');
    if (format === 'torch-zip') {
      const maxBytes = Math.max(MIN_LIMIT_BYTES, layout.totalParams * 8);
      return encodeWeights((await formats.readTorchZip(bytes, { maxBytes })).tensors);
    }
    const { shape, data } = formats.readNpy(bytes);
    return encodeWeights(nameArray({ shape, data: Float32Array.from(data) }, layout));
  } catch (error) {
    if (!(error instanceof OctomilError) || !UNREADABLE.has(error.code)) throw error;
    throw new OctomilError(
      'update_rejected',
      `the update cannot be read: ${error.reason}; send a safetensors file, a torch zip of tensors, or an .npy array`,
      { cause: error },
    );
  }
}

/** A small model's update may hold tensors that do not belong: their names are worth an answer. */
const MIN_LIMIT_BYTES = 16 * 1024 * 1024;

/** Codes of a file that is at fault itself. */
const UNREADABLE: ReadonlySet<string> = new Set(['corrupt_file', 'invalid_input', 'too_large']);

function nameArray(array: { shape: readonly number[]; data: Float32Array }, layout: ParameterLayout): NamedTensor[] {
  const [only] = layout.tensors;
  if (layout.tensors.length === 1 && only !== undefined) return [{ name: only.name, ...array }];
  if (array.shape.length === 1 && array.data.length === layout.totalParams) return unflatten(layout, array.data);
  throw new OctomilError(
    'update_rejected',
    `the .npy file holds an array of shape [${array.shape}]; this model has ${layout.tensors.length} tensors with ${layout.totalParams} values together: send them by name as safetensors, or as one vector in the order of their names`,
  );
}
