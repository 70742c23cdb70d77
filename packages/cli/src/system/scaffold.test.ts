import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { decodeWeights, flatten } from '@octomil/shared/tensors';
import { type Fleet, GENERATED_TARGET, startFleet } from '../fleet/fleet.js';

const SITES = ['site-1', 'site-2', 'site-3'];
let fleet: Fleet;
beforeAll(async () => {
  fleet = await startFleet({ agents: [...SITES.map((name) => ({ name })), { name: 'closed', policy: { allow: [] } }] });
  await fleet.registry.ensureModel({ name: 'risk' });
}, 240_000);
afterAll(() => fleet.stop(), 60_000);

/** Every file under a folder. */
async function filesUnder(folder: string, part: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true });
  return names.filter((name) => name.includes(part)).map((name) => join(folder, name));
}

async function controlVariates(folder: string, part: string): Promise<number[][]> {
  const found: number[][] = [];
  for (const path of await filesUnder(folder, part)) {
    const bytes = await readFile(path).catch(() => undefined);
    if (bytes !== undefined) found.push([...flatten(decodeWeights(bytes))]);
  }
  return found;
}

test('sites train by scaffold, one of them restarted meanwhile; the version is a plain model', async () => {
  const run = await fleet.federation().start({
    ...{ model: 'risk', architecture: 'logistic', target: GENERATED_TARGET, minUpdates: 3, seed: 7, rounds: 4 },
    ...{ algorithm: 'scaffold', local: { epochs: 4, batchSize: 32, learningRate: 0.1 } },
  });
  for await (const event of run.events()) if (event.type === 'checkpoint') break;
  await fleet.agent('site-2').restart();
  const result = await run.result();
  expect(result).toMatchObject({ status: 'completed', version: '1.0.0' });
  expect(result.metrics?.overall?.auc).toBeGreaterThan(0.6);
  for (const round of result.rounds.filter(({ kind }) => kind === 'train')) {
    expect(round).toMatchObject({ details: { control_variates: { devices: 3, restarted: false } } });
  }
  const pulled = decodeWeights((await fleet.registry.pullModel({ model: 'risk', version: '1.0.0' })).bytes);
  expect(pulled.map(({ name }) => name).filter((name) => /control|weights/.test(name))).toEqual([]);
  expect((await fleet.registry.version('risk', '1.0.0'))['lineage']).toMatchObject({
    strategy: 'scaffold',
    local: { optimizer: 'sgd' },
  });

  // The server's is the mean of what the sites have for their last updates.
  const own = await Promise.all(
    SITES.map((name) => controlVariates(join(fleet.folder, 'agents', name), join('control-variates', ''))),
  );
  const servers = await controlVariates(join(fleet.folder, 'coordinator'), join('states', ''));
  expect(servers).toHaveLength(4);
  const newest = own.map((kept) => kept.at(-1) ?? []);
  expect(newest.every(({ length }) => length === newest[0]?.length && length > 1)).toBe(true);
  const isMean = (server: readonly number[], chosen: readonly (readonly number[])[]): boolean =>
    server.every((value, at) => {
      const mean = chosen.reduce((sum, one) => sum + (one[at] ?? 0), 0) / SITES.length;
      return Math.abs(value - mean) < 1e-5;
    });
  // Each site keeps the one of the round before as well; in which order, no name says.
  const choices = own.reduce<number[][][]>(
    (all, kept) => all.flatMap((some) => kept.map((one) => [...some, one])),
    [[]],
  );
  expect(servers.filter((server) => choices.some((chosen) => isMean(server, chosen))).length).toBeGreaterThan(0);
}, 300_000);

test.each([
  [{ trainer: 'echo' }, 'training_not_supported'],
  [{ updateFormat: 'weights' as const }, 'invalid_input'],
  [{ local: { optimizer: 'adam' as const } }, 'invalid_input'],
])('refuses %j', async (change, code) => {
  const training = fleet.federation().train({ model: 'risk', algorithm: 'scaffold', ...change });
  await expect(training).rejects.toMatchObject({ code });
});
