import { createHash } from 'node:crypto';
import type { ObjectStore } from '@octomil/shared/storage';
import type { StoredFile } from './ports.js';

/** Folders of the object store that belong to training; what no row names there is swept. */
export const TRAINING_PREFIXES = ['checkpoints/', 'states/', 'updates/', 'personalized/'] as const;

/** Holds the assignment and the digest, so that an accepted update cannot be swapped. */
export function updateKey(roundId: string, assignmentId: string, sha256: string): string {
  return `updates/${roundId}/${assignmentId}-${sha256}`;
}

export function sha256Of(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Stores bytes under their digest. */
export async function storeBytes(objects: ObjectStore, folder: 'checkpoints', bytes: Uint8Array): Promise<StoredFile> {
  const sha256 = sha256Of(bytes);
  const objectKey = `${folder}/${sha256}`;
  await objects.put(objectKey, bytes);
  return { objectKey, sha256, sizeBytes: bytes.length };
}
