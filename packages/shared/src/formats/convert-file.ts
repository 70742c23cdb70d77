import { createHash, randomUUID } from 'node:crypto';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { DEFAULT_CAPS, parseModelDocument } from '@octomil/shared/models';
import { convertModel } from './convert-model.js';
import type { ModelFormat } from './file-format.js';
import { formatOfPath, readWeightsFile } from './model-file.js';

export interface ConvertFileOptions {
  /** Weights: safetensors, or a PyTorch state dict. */
  readonly inputPath: string;
  readonly to: ModelFormat;
  /** Replaced as a whole when the conversion succeeds. */
  readonly outputPath: string;
  /** The `model.json` of the weights; ONNX needs it. */
  readonly documentPath?: string;
  /** Largest file that is read, in bytes. Default 2 GiB. */
  readonly maxInputBytes?: number;
}

export interface ConvertedFile {
  readonly from: ModelFormat;
  readonly to: ModelFormat;
  readonly sizeBytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
  readonly parameters: number;
}

/**
 * Converts a file of weights into another format. The format of the input is told by its bytes.
 *
 * @throws OctomilError `conversion_failed` naming what cannot be converted and what can; `corrupt_file`, `too_large`,
 * `not_found`, `insufficient_storage`; nothing half-written stays
 */
export async function convertFile(options: ConvertFileOptions): Promise<ConvertedFile> {
  const { inputPath, outputPath, documentPath, to } = options;
  const { format: from } = await formatOfPath(inputPath);
  const document = documentPath === undefined ? undefined : await readDocument(documentPath);
  const weights = await readWeightsFile(inputPath, from, options.maxInputBytes);
  const parameters = weights.reduce((sum, { data }) => sum + data.length, 0);
  const stream = convertModel({ ...(document === undefined ? {} : { document }), weights, format: to });
  const written = await writeWhole(outputPath, stream);
  return { from: from ?? 'safetensors', to, parameters, ...written };
}

async function readDocument(path: string) {
  const { sizeBytes } = await formatOfPath(path);
  const limit = 2 * DEFAULT_CAPS.maxTopologySize;
  if (sizeBytes > limit) throw new OctomilError('too_large', `${path} has ${sizeBytes} bytes; the limit is ${limit}`);
  return parseModelDocument(await readFile(path));
}

/** Under another name until it is whole. */
async function writeWhole(
  path: string,
  source: AsyncIterable<Uint8Array>,
): Promise<{ sizeBytes: number; sha256: string }> {
  const temporary = `${path}.${randomUUID()}.part`;
  const hash = createHash('sha256');
  let sizeBytes = 0;
  try {
    const file = await open(temporary, 'wx');
    try {
      for await (const chunk of source) {
        hash.update(chunk);
        await file.writeFile(chunk);
        sizeBytes += chunk.length;
      }
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw toOctomilError(error);
  }
  return { sizeBytes, sha256: hash.digest('hex') };
}
