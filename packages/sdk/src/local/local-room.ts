import type { NamedTensor } from '@octomil/shared/tensors';
import { OctomilClientError } from '../client-error.js';
import { namedTensors, type WeightsLike } from './weights.js';

export type LocalRoom = typeof import('./local-training.js');

/** What needs Node and the shared rooms is loaded with the first use: the root door stays small. */
export async function localRoom(): Promise<LocalRoom> {
  if (typeof process === 'undefined' || process.getBuiltinModule === undefined) {
    throw new OctomilClientError('runtime_unavailable', 'training runs in Node; there is no file system here');
  }
  // By a name that bundles for browsers resolve to something small, and the one for require() leaves to Node.
  return import('#local-training');
}

export async function tensorsOf(weights: WeightsLike): Promise<NamedTensor[]> {
  return weights instanceof Uint8Array ? (await localRoom()).decode(weights) : namedTensors(weights);
}

export async function encoded(weights: WeightsLike): Promise<Uint8Array> {
  return weights instanceof Uint8Array ? weights : (await localRoom()).encode(namedTensors(weights));
}
