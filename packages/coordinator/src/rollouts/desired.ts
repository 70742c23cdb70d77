import { createHash } from 'node:crypto';
import type { SelectableDevice } from '../devices/device-selector.js';
import type { InForceRollout } from './rollouts-in-force.js';

/** A file of a version, by digest. */
export interface DesiredArtifact {
  readonly format: string;
  /** Harmless as a name in a folder. */
  readonly fileName: string;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
  readonly sizeBytes: number;
}

/** A model that a device should run, and in which version. */
export interface DesiredDeviceModel {
  readonly modelId: string;
  readonly modelName: string;
  readonly versionId: string;
  readonly version: string;
  /** The rollout that decided. */
  readonly rolloutId: number;
  readonly artifacts: readonly DesiredArtifact[];
  readonly activation: 'immediate' | 'when_idle' | 'manual';
}

/** Everything a device should run. Equal content has an equal digest, on every coordinator. */
export interface DesiredModels {
  readonly digest: string;
  /** By model id. */
  readonly models: readonly DesiredDeviceModel[];
}

/** What decides about a device: its row, as rollouts read it. */
export interface DeviceFacts extends SelectableDevice {
  readonly organizationId: string;
  /** In [0, 1), fixed for the device's life. */
  readonly placement: number;
}

/**
 * The rollout that decides for each model: the newest one in force whose selector the device matches and in whose share
 * it is.
 *
 * @param inForce newest first
 */
export function decide<R extends Pick<InForceRollout, 'modelId' | 'holds'>>(
  inForce: readonly R[],
  device: DeviceFacts,
): R[] {
  const chosen = new Map<string, R>();
  for (const rollout of inForce) {
    if (!chosen.has(rollout.modelId) && rollout.holds(device)) chosen.set(rollout.modelId, rollout);
  }
  return [...chosen.values()].sort((a, b) => (a.modelId < b.modelId ? -1 : 1));
}

export function desiredModels(rollouts: readonly InForceRollout[]): DesiredModels {
  const models = rollouts.map(({ desired }) => desired);
  const digest = createHash('sha256').update(JSON.stringify(models)).digest('hex');
  return { digest, models };
}
