import { OctomilError } from '@octomil/shared/errors';
import type { ModelDocument } from '@octomil/shared/models';
import { layoutOf, type NamedTensor, weightsFileBytes } from '@octomil/shared/tensors';
import { type ByteParts, bytesOf } from './byte-parts.js';
import type { ModelFormat } from './file-format.js';
import { npyHeader } from './npy.js';
import { writeOnnx } from './onnx/write-onnx.js';
import { writeStoredZip } from './stored-zip.js';
import { writeTorchZip } from './torch-zip.js';

/** Formats that are made here, without a converter of the operator's. */
export const WRITABLE_FORMATS = ['safetensors', 'pytorch', 'onnx', 'npz'] as const satisfies readonly ModelFormat[];
export type WritableFormat = (typeof WRITABLE_FORMATS)[number];

export interface ConvertRequest {
  /** The architecture; ONNX is made of it. */
  readonly document?: ModelDocument;
  readonly weights: readonly NamedTensor[];
  readonly format: ModelFormat;
}

/**
 * A model in another format, as a stream. Its parts are views over the weights, which are not copied but for npz.
 *
 * - `safetensors`: F32, sorted by name.
 * - `pytorch`: a state dict that `torch.load(weights_only=True)` takes; names and shapes as they are.
 * - `onnx`: see `writeOnnx`.
 * - `npz`: one array per weight, for `numpy.load`.
 *
 * @throws OctomilError `conversion_failed` when the format is not made here, when ONNX is asked for without a document or
 * the document has a layer without a counterpart
 */
export function convertModel({ document, weights, format }: ConvertRequest): AsyncIterable<Uint8Array> {
  if (format === 'safetensors') return streamOf(safetensorsParts(weights));
  if (format === 'pytorch') return writeTorchZip(weights);
  if (format === 'npz') return writeNpz(weights);
  if (format !== 'onnx') {
    throw new OctomilError(
      'conversion_failed',
      `${format} is not made here; ${WRITABLE_FORMATS.join(', ')} are, and a coordinator may have converters for more`,
      { details: { format, formats: WRITABLE_FORMATS } },
    );
  }
  if (document === undefined) {
    throw new OctomilError(
      'conversion_failed',
      'ONNX is made of the architecture and the weights; give the model document (model.json) too',
    );
  }
  return streamOf(writeOnnx(document, weights));
}

function writeNpz(weights: readonly NamedTensor[]): AsyncIterable<Uint8Array> {
  return writeStoredZip(
    weights.map((tensor) => ({
      name: `${tensor.name}.npy`,
      // A copy: a zip's entry is one buffer, and the header comes before the numbers.
      bytes: Buffer.concat([npyHeader(tensor), bytesOf(tensor.data)]),
    })),
  );
}

/** As a weights file, without a copy of all of it. */
function safetensorsParts(weights: readonly NamedTensor[]): ByteParts {
  const layout = layoutOf(weights);
  const data = new Map(weights.map((tensor) => [tensor.name, tensor.data]));
  for (const { name, size, shape } of layout.tensors) {
    if (data.get(name)?.length === size) continue;
    throw new OctomilError(
      'invalid_input',
      `tensor "${name}" of shape [${shape}] needs ${size} values, got ${data.get(name)?.length ?? 0}`,
    );
  }
  return {
    sizeBytes: weightsFileBytes(layout),
    *parts() {
      yield layout.headerBytes;
      for (const { name } of layout.tensors) yield bytesOf(data.get(name) ?? new Float32Array(0));
    },
  };
}

async function* streamOf(file: ByteParts): AsyncGenerator<Uint8Array> {
  yield* file.parts();
}
