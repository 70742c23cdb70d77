import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { encodeWeights } from '@octomil/shared/tensors';
import {
  listPersonal,
  loadPersonalModel,
  type PersonalLimit,
  type PersonalListing,
  removePersonal,
} from '@octomil/shared/training';
import { writeAtomically } from '../state/atomic-file.js';

/** What coordinators may make this site keep. */
export const PERSONAL_LIMIT: PersonalLimit = {
  parts: 64,
  bytes: 8 * 2 ** 30,
  advice:
    "the site's owner can remove what is not needed any more with octomil agent personal list and octomil agent personal remove",
};

const folderOf = (stateDir: string): string => join(stateDir, 'personal');

/** What of models is this site's own. */
export function listPersonalModels(stateDir: string): Promise<PersonalListing[]> {
  return listPersonal(folderOf(stateDir));
}

/** @throws OctomilError `not_found` naming those that there are */
export function removePersonalModel(stateDir: string, id: string): Promise<void> {
  return removePersonal(folderOf(stateDir), id);
}

/**
 * Writes a personal model as a folder that predictions can be made from.
 *
 * @param weightsPath a version's weights; needed where only some layers are the site's own
 * @throws OctomilError `not_found`, `corrupt_file`, `data_mismatch`, `invalid_input` also for a folder that is not empty
 */
export async function exportPersonalModel(
  stateDir: string,
  id: string,
  output: string,
  weightsPath?: string,
): Promise<{ readonly documentPath: string; readonly weightsPath: string }> {
  const known = (await listPersonal(folderOf(stateDir))).map((one) => one.id);
  if (!known.includes(id)) {
    throw new OctomilError('not_found', `there is no personal model "${id}"; there are ${known.join(', ') || 'none'}`);
  }
  const base = weightsPath === undefined ? undefined : await readBase(weightsPath);
  const { document, tensors } = await loadPersonalModel(join(folderOf(stateDir), id), base);
  await mkdir(output, { recursive: true, mode: 0o700 });
  if ((await readdir(output)).length > 0) {
    throw new OctomilError('invalid_input', `${output} is not empty; name a new folder`);
  }
  const paths = { documentPath: join(output, 'model.json'), weightsPath: join(output, 'weights.safetensors') };
  await writeAtomically(paths.documentPath, document);
  await writeAtomically(paths.weightsPath, encodeWeights(tensors));
  return paths;
}

async function readBase(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new OctomilError('data_unreadable', `${path} cannot be read (${(cause as NodeJS.ErrnoException).code})`, {
      cause,
    });
  }
}
