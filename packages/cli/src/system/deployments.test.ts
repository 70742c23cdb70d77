import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { openLocalAgent, parseAgentConfig, startAgent } from '@octomil/agent';
import { OctomilError } from '@octomil/shared/errors';
import { silentLogger } from '@octomil/shared/runtime';
import { type Fleet, GENERATED_TARGET, startFleet } from '../fleet/fleet.js';
import { SmallDisk } from './small-disk.js';

const disk = SmallDisk.mount(24);
const onDisk = disk === undefined ? test.skip : test;
const skipped = disk === undefined ? ' (skipped: this user cannot mount a disk)' : '';
afterAll(() => disk?.unmount());

const TRAINING = {
  model: 'risk',
  architecture: 'logistic',
  target: GENERATED_TARGET,
  rounds: 1,
  minUpdates: 2,
  seed: 7,
  local: { epochs: 1, batchSize: 32, learningRate: 0.1, optimizer: 'sgd' },
} as const;

/** One device of one fails: without this the rollout would take itself back. */
const TOLERANT = { maxActivationFailureRatio: 1 } as const;

async function until(condition: () => Promise<boolean>): Promise<void> {
  const endMs = Date.now() + 40_000;
  while (!(await condition())) {
    if (Date.now() > endMs) throw new OctomilError('request_timeout', `never happened: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** What a program beside the agent finds. */
async function activeOn(fleet: Fleet, name: string, modelId: string): Promise<Record<string, unknown> | undefined> {
  const path = join(fleet.folder, 'agents', name, 'state', 'deployed', modelId, 'active.json');
  const text = await readFile(path, 'utf8').catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as { active: Record<string, unknown> }).active;
}

test('sites train a model, a rollout brings each version to them, and its figures come back', async () => {
  const fleet = await startFleet({ agents: 2 });
  try {
    const sites = fleet.agents.map(({ name }) => name);
    const runsOn = async (version: string, modelId: string): Promise<boolean> => {
      const found = await Promise.all(sites.map((name) => activeOn(fleet, name, modelId)));
      return found.every((active) => active?.['version'] === version);
    };
    let previous: string | undefined;
    const { id: modelId } = await fleet.registry.ensureModel({ name: 'risk' });
    for (const version of ['1.0.0', '2.0.0']) {
      await fleet.federation().train({ ...TRAINING, newVersion: version });
      const rollout = await fleet.registry.createRollout({ modelId, version, rolloutPercentage: 100 });
      await until(() => runsOn(version, modelId));
      const at = { modelId, rolloutId: rollout.id } as const;
      const shown = async (): Promise<string> => JSON.stringify(await fleet.registry.rollouts.get(at));
      await until(async () => /"active":2/.test(await shown()));
      const rows = await fleet.coordinator.context.database.kysely
        .selectFrom('device_models')
        .selectAll()
        .where('model_id', '=', modelId)
        .execute();
      expect(rows).toHaveLength(2);
      expect(rows.every(({ state }) => state === 'active')).toBe(true);
      await until(async () => {
        const reported = await fleet.coordinator.context.database.kysely
          .selectFrom('device_models')
          .select('health')
          .where('model_id', '=', modelId)
          .execute();
        const texts = reported.map(({ health }) => JSON.stringify(health));
        return texts.every(
          (text) => /"evaluation":\{/.test(text) && /"baseline":\{/.test(text) === (previous !== undefined),
        );
      });
      previous = version;
    }
    const site = sites[0] ?? '';
    const versionId = String((await activeOn(fleet, site, modelId))?.['versionId']);
    const local = await openLocalAgent(join(fleet.folder, 'agents', site, 'state'));
    expect(await local.report([{ modelId, versionId, latencyMs: 3, failed: false }])).toBe(1);
    await until(async () => {
      const [row] = await fleet.coordinator.context.database.kysely
        .selectFrom('device_models')
        .innerJoin('devices', 'devices.id', 'device_models.device_id')
        .select('device_models.health')
        .where('devices.device_identifier', '=', site)
        .execute();
      return /"inferences":1,/.test(JSON.stringify(row?.health));
    });
  } finally {
    await fleet.stop();
  }
}, 300_000);

onDisk.each([4_000_000, 0])(
  `a device whose disk has %d bytes left${skipped}: the activation fails with the reason, the old version stays, and with room it goes on`,
  async (leftBytes) => {
    if (disk === undefined) return;
    const fleet = await startFleet({ agents: [] });
    const state = join(disk.folder, 'used', `state-${leftBytes}`);
    const { token } = await fleet.organization.createEnrollmentToken();
    const file = {
      coordinator: fleet.grpcAddress,
      device_identifier: 'cramped',
      enrollment_token: String(token),
      state_dir: state,
      stop_grace_seconds: 0,
    };
    const config = parseAgentConfig(file, { folder: disk.folder, environment: {} });
    const agent = await startAgent(config, { logger: silentLogger, random: () => 0 });
    try {
      await agent.ready;
      const { id: modelId } = await fleet.registry.ensureModel({ name: 'graph' });
      const row = async (): Promise<Record<string, unknown> | undefined> =>
        fleet.coordinator.context.database.kysely
          .selectFrom('device_models')
          .selectAll()
          .where('model_id', '=', modelId)
          .executeTakeFirst();
      for (const [version, bytes] of [
        ['1.0.0', 1_000],
        ['2.0.0', 5_000_000],
      ] as const) {
        const content = new Blob([new Uint8Array(bytes).fill(bytes % 251)]);
        await fleet.registry.uploadVersion({ modelId, version, fileName: 'graph.onnx', content });
        await fleet.registry.publishVersion({ modelId, version });
        if (version === '2.0.0') await disk.fill(leftBytes);
        await fleet.registry.createRollout({ modelId, version, rolloutPercentage: 100, health: TOLERANT });
        if (version === '1.0.0') await until(async () => (await row())?.['state'] === 'active');
      }
      await until(async () => (await row())?.['state'] === 'failed');
      const failed = await row();
      expect(failed?.['reason_code']).toBe('insufficient_storage');
      expect(failed?.['active_version_id']).not.toBe(failed?.['version_id']);
      const pointer = async () =>
        JSON.parse(await readFile(join(state, 'deployed', modelId, 'active.json'), 'utf8')) as {
          active: { version: string };
        };
      expect((await pointer()).active.version).toBe('1.0.0');
      await disk.free();
      await until(async () => (await pointer()).active.version === '2.0.0');
      await until(async () => (await row())?.['state'] === 'active');
    } finally {
      await disk.free();
      await agent.stop();
      await fleet.stop();
    }
  },
  300_000,
);
