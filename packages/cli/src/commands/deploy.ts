import type { Client, DeviceSelector, HealthGates, RolloutSettings } from '@octomil/sdk';
import { connect } from '../access/connect.js';
import type { Options } from '../program.js';
import { percentText, print } from '../terminal/output.js';
import { watchRollout } from '../terminal/watch-rollout.js';

/** Starts a rollout. @returns with `--watch`, how it ended */
export async function deploy(options: Options, model: string): Promise<number> {
  const client = await connect();
  const version = String(options['version'] ?? (await client.registry.latestVersion(model)).version);
  const settings = await withKnownDevices(client, rolloutSettings(options, model, version));
  const rollout = await client.rollouts.create(settings);
  if (options['json'] !== true || options['watch'] !== true) {
    await print(options['json'], rollout, () => {
      const { id, status, rolloutPercentage, targetPercentage } = rollout;
      const doing = status === 'draft' ? 'is a draft' : `is ${status}`;
      const when = status === 'draft' ? 'first' : 'now';
      const shares = `${percentText(rolloutPercentage)} of the devices ${when}, ${percentText(targetPercentage)} in the end`;
      return `Rollout ${id} of ${model} ${rollout.version} ${doing}: ${shares}.`;
    });
  }
  if (options['watch'] !== true) return 0;
  return watchRollout(client, { modelId: model, rolloutId: rollout.id }, options['json']);
}

/** What commander gave, in the SDK's words. */
export function rolloutSettings(options: Options, modelId: string, version: string): RolloutSettings {
  const health = defined<HealthGates>({
    minDevices: options['minDevices'],
    bakeSeconds: options['bake'],
    maxActivationFailureRatio: options['maxFailureRatio'],
    maxInferenceErrorRatio: options['maxErrorRatio'],
    maxLatencyMs: options['maxLatencyMs'],
    maxLatencyRatio: options['maxLatencyRatio'],
    maxMetricDrop: options['maxMetricDrop'],
    onBreach: options['onBreach'],
  });
  const selector = defined<DeviceSelector>({
    labels: options['label'],
    groups: options['group'],
    devices: options['device'],
  });
  const target = options['target'] as number | undefined;
  return {
    modelId,
    version,
    startImmediately: options['draft'] !== true,
    ...defined<RolloutSettings>({
      // A target below the first stage's default is meant, and so is a single stage then.
      rolloutPercentage: options['rollout'] ?? (target !== undefined && target < 10 ? target : undefined),
      targetPercentage: target,
      incrementStep: options['increment'],
      advanceEverySeconds: options['every'],
      reason: options['reason'],
    }),
    ...(Object.keys(selector).length === 0 ? {} : { selector }),
    ...(Object.keys(health).length === 0 ? {} : { health }),
  };
}

/**
 * People name devices by their identifiers; a selector holds ids. A group that was mistyped would be a rollout to nobody.
 *
 * @throws OctomilClientError `device_not_registered`, `not_found` for a group
 */
async function withKnownDevices(client: Client, settings: RolloutSettings): Promise<RolloutSettings> {
  const { devices, groups = [] } = settings.selector ?? {};
  await Promise.all(groups.map((group) => client.groups.get({ group })));
  if (devices === undefined) return settings;
  const found = await Promise.all(devices.map((deviceId) => client.devices.get({ deviceId })));
  return { ...settings, selector: { ...settings.selector, devices: found.map(({ id }) => id) } };
}

/** Without what was not given. Commander has checked the types. */
function defined<T>(values: Readonly<Record<string, unknown>>): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>;
}
