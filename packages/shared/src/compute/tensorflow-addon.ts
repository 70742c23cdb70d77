import { createRequire } from 'node:module';

/**
 * Loads tfjs-node or tfjs-node-gpu, both optional peers, which register the backend `tensorflow`.
 *
 * Their TensorFlow binding still calls `util.isNullOrUndefined` and `util.isArray`, which Node removed in version 23.
 */
export function loadTensorflowAddon(packageName: '@tensorflow/tfjs-node' | '@tensorflow/tfjs-node-gpu'): void {
  const require = createRequire(import.meta.url);
  const util = require('node:util') as Record<string, unknown>;
  util['isNullOrUndefined'] ??= (value: unknown) => value === null || value === undefined;
  util['isArray'] ??= Array.isArray;
  require(packageName);
}
