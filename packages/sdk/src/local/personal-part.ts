import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { Architecture } from '@octomil/shared/models';
import { parseModelDocument } from '@octomil/shared/models';
import {
  listPersonal,
  loadPersonalModel,
  type Personalization,
  type PersonalListing,
  type PersonalPlace,
  parsePersonalization,
} from '@octomil/shared/training';
import { OctomilClientError } from '../client-error.js';
import type { PersonalizationOptions } from '../training-options.js';
import type { PersonalModel } from './options.js';
import { stateDict } from './weights.js';

/** What of a model is the caller's own, and where it is kept. */
export interface PersonalRequest {
  readonly personalization: PersonalizationOptions;
  readonly folder: string;
  /** The same round again starts from what it started from before. */
  readonly sessionId: string;
  readonly roundNumber: number;
}

/** For the trainer. @throws OctomilError `invalid_input` for an unknown method */
export function personalPart(
  { personalization: given, folder, sessionId, roundNumber }: PersonalRequest,
  model: string,
  architecture: Architecture,
): { personalization: Personalization; personal: PersonalPlace } {
  const personalization = parsePersonalization(given);
  const key = JSON.stringify([model, personalization.method, architecture]);
  const path = join(folder, createHash('sha256').update(key).digest('hex').slice(0, 16));
  return { personalization, personal: { path, federation: '', model, dataSet: '', sessionId, roundNumber } };
}

/**
 * The caller's own model from a folder, newest first where there are several of that name.
 *
 * @param pullWeights a version's weights, asked for where only some layers are the caller's own
 * @throws OctomilClientError `not_found`; OctomilError `corrupt_file`, `data_mismatch`
 */
export async function readPersonalModel(
  folder: string,
  model: string,
  pullWeights: () => Promise<Uint8Array>,
): Promise<PersonalModel> {
  const found = (await listPersonal(folder))
    .filter(({ record }) => record?.model === model)
    .sort((left: PersonalListing, right: PersonalListing) => (left.keptAt < right.keptAt ? 1 : -1))[0];
  if (found?.record === undefined) {
    throw new OctomilClientError(
      'not_found',
      `${folder} keeps no personal model of "${model}"; train with personalization first`,
    );
  }
  const { record } = found;
  const base = record.method === 'ditto' ? undefined : await pullWeights();
  const { document, tensors } = await loadPersonalModel(found.path, base);
  const { architecture, featureSpec } = parseModelDocument(document);
  if (featureSpec === undefined)
    throw new OctomilError('corrupt_file', 'what was kept does not say how columns become inputs');
  const { method, current } = record;
  return { method, rounds: current.rounds, architecture, featureSpec, weights: stateDict(tensors) };
}
