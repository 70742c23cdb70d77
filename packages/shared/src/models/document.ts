import type { FeatureSpec } from '@octomil/shared/features';
import type { Architecture } from './architecture.js';

/** The `model.json` artifact: everything but the weights, which are in `weights.safetensors`. */
export interface ModelDocument {
  readonly format: 'octomil-model';
  readonly formatVersion: 1;
  readonly architecture: Architecture;
  /** Numbers in one encoded row. */
  readonly inputWidth: number;
  /** How a table's columns become that row; absent for models that were not made from a table. */
  readonly featureSpec?: FeatureSpec;
  /** Names of the weights in the order of tfjs `getWeights()`; the weights file itself is sorted by name. */
  readonly weightOrder: readonly string[];
}
