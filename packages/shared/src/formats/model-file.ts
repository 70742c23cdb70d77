import { open, readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { compareNames, type NamedTensor, parseSafetensors, weightsFromSafetensors } from '@octomil/shared/tensors';
import { FORMAT_HEAD_BYTES, formatOfFile, type ModelFormat } from './file-format.js';
import { readTorchZip } from './torch-zip.js';

/** Formats whose weights are read here. */
export const READABLE_FORMATS = ['safetensors', 'pytorch'] as const satisfies readonly ModelFormat[];

/** @throws OctomilError `not_found` when there is no such file */
export async function formatOfPath(path: string): Promise<{ format: ModelFormat | undefined; sizeBytes: number }> {
  const file = await open(path, 'r').catch((error: unknown) => {
    if ((error as { code?: unknown }).code === 'ENOENT')
      throw new OctomilError('not_found', `there is no file ${path}`);
    throw error;
  });
  try {
    const found = await file.stat();
    if (!found.isFile()) throw new OctomilError('invalid_input', `${path} is no file`);
    const head = new Uint8Array(FORMAT_HEAD_BYTES);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    return { format: formatOfFile(path, head.subarray(0, bytesRead)), sizeBytes: found.size };
  } finally {
    await file.close();
  }
}

/**
 * The weights of a file, as float32.
 *
 * @param maxBytes largest file read. Default 2 GiB
 * @throws OctomilError `conversion_failed` when weights of this format are not read here, `too_large`, `corrupt_file`
 */
export async function readWeightsFile(
  path: string,
  format: ModelFormat | undefined,
  maxBytes = 2 ** 31,
): Promise<readonly NamedTensor[]> {
  const { sizeBytes } = await formatOfPath(path);
  if (sizeBytes > maxBytes) {
    throw new OctomilError(
      'too_large',
      `${path} has ${sizeBytes} bytes; the largest that is converted has ${maxBytes}`,
    );
  }
  if (format === 'safetensors') return readSafetensors(await readFile(path));
  if (format === 'pytorch') return (await readTorchZip(path, { maxBytes })).tensors;
  throw new OctomilError(
    'conversion_failed',
    `${path} is ${format ?? 'of no known format'}; weights are read from ${READABLE_FORMATS.join(' and ')}`,
    { details: { format: format ?? null, formats: READABLE_FORMATS } },
  );
}

/** Views over the file where it is float32 and aligned, as ours are; otherwise copies. */
function readSafetensors(bytes: Uint8Array): NamedTensor[] {
  const { tensors } = parseSafetensors(bytes);
  if (!tensors.every((tensor) => tensor.dtype === 'F32' && tensor.bytes.byteOffset % 4 === 0)) {
    return weightsFromSafetensors(bytes);
  }
  return tensors
    .map((tensor) => ({
      name: tensor.name,
      shape: tensor.shape,
      data: new Float32Array(tensor.bytes.buffer, tensor.bytes.byteOffset, tensor.bytes.length / 4),
    }))
    .sort((a, b) => compareNames(a.name, b.name));
}
