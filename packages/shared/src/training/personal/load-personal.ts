import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { type NamedTensor, weightsFromSafetensors } from '@octomil/shared/tensors';
import { DOCUMENT, type PersonalRecord, readPersonalRecord, readPersonalTensors } from './personal-folder.js';

/** A whole model as this site would use it. */
export interface PersonalModel {
  readonly record: PersonalRecord;
  /** The bytes of `model.json`. */
  readonly document: Uint8Array;
  readonly tensors: readonly NamedTensor[];
}

/**
 * Reads a personal model for predictions: Ditto's as it is; with FedBN and FedPer the site's own layers in the place of
 * those of a version.
 *
 * @param path one folder under `personal` in the agent's state folder
 * @param base a weights file of the version that the rest is taken from; Ditto needs none
 * @throws OctomilError `not_found` where nothing is kept, `corrupt_file`, `invalid_input` without the base that is needed,
 * `data_mismatch` for a base of another model
 */
export async function loadPersonalModel(path: string, base?: Uint8Array): Promise<PersonalModel> {
  const record = await readPersonalRecord(path);
  if (record === undefined) throw new OctomilError('not_found', `${path} keeps no personal model`);
  const own = await readPersonalTensors(path, record.current);
  const document = await readFile(join(path, DOCUMENT)).catch((cause: unknown) => {
    throw new OctomilError('corrupt_file', `${DOCUMENT} beside what was kept is lost`, { cause });
  });
  if (record.method === 'ditto') return { record, document, tensors: own };
  if (base === undefined) {
    throw new OctomilError(
      'invalid_input',
      `${record.method} keeps some layers of "${record.model}" (${own.map(({ name }) => name).join(', ')}); name the weights of a version for the rest (--weights; octomil pull gets them)`,
    );
  }
  const byName = new Map(own.map((tensor) => [tensor.name, tensor]));
  const tensors = weightsFromSafetensors(base).map((tensor) => {
    const mine = byName.get(tensor.name);
    if (mine === undefined) return tensor;
    byName.delete(tensor.name);
    if (mine.shape.join() === tensor.shape.join()) return mine;
    throw new OctomilError(
      'data_mismatch',
      `${tensor.name} is [${tensor.shape.join(', ')}] in these weights, and [${mine.shape.join(', ')}] is kept here`,
    );
  });
  const [missing] = byName.keys();
  if (missing === undefined) return { record, document, tensors };
  throw new OctomilError('data_mismatch', `these weights have no tensor ${missing}; they are of another model`);
}
