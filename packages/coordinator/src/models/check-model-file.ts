import { readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { parseModelDocument } from '@octomil/shared/models';
import { readLayout } from '@octomil/shared/tensors';
import { DOCUMENT_FORMAT, MAX_DOCUMENT_BYTES, WEIGHTS_FORMAT } from './registry.js';

/** Whether files of this format are opened: ours are, foreign ones are kept as they are. */
export function isOurs(format: string): boolean {
  return format === DOCUMENT_FORMAT || format === WEIGHTS_FORMAT;
}

/**
 * What is ours must be readable; what is foreign is never opened.
 *
 * @throws OctomilError `invalid_input` for an empty file, `too_large` for a document, `corrupt_file`
 */
export async function checkModelFile(path: string, format: string, sizeBytes: number): Promise<void> {
  requireContent(sizeBytes);
  if (format === DOCUMENT_FORMAT) {
    if (sizeBytes > MAX_DOCUMENT_BYTES) {
      throw new OctomilError(
        'too_large',
        `the model document has ${sizeBytes} bytes, more than the ${MAX_DOCUMENT_BYTES} allowed`,
        { details: { limit_bytes: MAX_DOCUMENT_BYTES } },
      );
    }
    parseModelDocument(await readFile(path));
  }
  if (format === WEIGHTS_FORMAT) await readLayout(path);
}

/** @throws OctomilError `invalid_input` */
export function requireContent(sizeBytes: number): void {
  if (sizeBytes === 0) throw new OctomilError('invalid_input', 'file is empty; upload one that holds a model');
}
