import { firstNonFinite } from '@octomil/shared/compute';
import { OctomilError } from '@octomil/shared/errors';
import { locateParameter, type ParameterLayout, sameLayout } from '@octomil/shared/tensors';

/** Names the update in a message about several: its place in the job, from 0. */
export interface UpdatePlace {
  readonly updateIndex?: number;
}

/** @throws `update_rejected` naming the tensor, the shape expected and the one received */
export function requireSameLayout(base: ParameterLayout, update: ParameterLayout, place: UpdatePlace = {}): void {
  const difference = sameLayout(base, update);
  if (difference === undefined) return;
  throw new OctomilError('update_rejected', `${subject(place)} does not fit the model: ${difference}`, {
    details: { ...place },
  });
}

/**
 * The error for a range of an update that holds NaN or an infinity.
 *
 * @param start parameters before the range
 */
export function nonFiniteRejection(
  layout: ParameterLayout,
  values: Float32Array,
  start: number,
  place: UpdatePlace = {},
): OctomilError {
  const index = firstNonFinite(values);
  const { name = '', element = 0 } = locateParameter(layout, start + index) ?? {};
  return new OctomilError(
    'update_rejected',
    `${subject(place)} has ${values[index]} at element ${element} of tensor "${name}"; every value must be finite`,
    { details: { ...place, tensor: name, element } },
  );
}

/** @throws `update_rejected` in place of `corrupt_file`: what a device sent is wrong, not what we keep */
export async function rejectCorrupt<T>(read: () => T | Promise<T>, place: UpdatePlace = {}): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw asRejection(error, place);
  }
}

export function asRejection(error: unknown, place: UpdatePlace = {}): unknown {
  if (!(error instanceof OctomilError) || error.code !== 'corrupt_file') return error;
  return new OctomilError('update_rejected', `${subject(place)} cannot be read: ${error.reason}`, {
    cause: error,
    details: { ...place },
  });
}

function subject({ updateIndex }: UpdatePlace): string {
  return updateIndex === undefined ? 'the update' : `update ${updateIndex}`;
}
