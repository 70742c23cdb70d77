import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { silentLogger } from '@octomil/shared/runtime';
import { readCoordinatorConfig } from '../config.js';
import { startCoordinator } from '../start-coordinator.js';
import { testDatabaseDump } from '../testing/index.js';
import { backupCoordinator, restoreCoordinator } from './index.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-run-backup-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const environment = (name: string) => ({
  OCTOMIL_DATA_DIR: join(folder, name),
  OCTOMIL_REST_PORT: '0',
  OCTOMIL_GRPC_PORT: '0',
});
const settings = { logger: silentLogger };

test('where no coordinator ever was there is nothing to back up, and nothing is made', async () => {
  const output = join(folder, 'none');
  const config = readCoordinatorConfig(environment('mistyped'));
  await expect(backupCoordinator(config, output, settings)).rejects.toMatchObject({
    code: 'config_invalid',
    reason: expect.stringContaining('OCTOMIL_DATA_DIR'),
  });
  expect(await readdir(folder)).toEqual([]);
});

test('a coordinator comes back in another folder, with its keys, models and log', async () => {
  const output = join(folder, 'backup');
  const first = await startCoordinator({
    environment: environment('old'),
    databaseDump: await testDatabaseDump(),
    logger: silentLogger,
  });
  const key = first.bootstrapApiKey ?? '';
  const call = async (url: string, path: string, json?: object): Promise<Record<string, unknown>> => {
    const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
    const request = json === undefined ? { headers } : { headers, method: 'POST', body: JSON.stringify(json) };
    const response = await fetch(`${url}/api/v1${path}`, request);
    expect(response.status).toBeLessThan(300);
    return (await response.json()) as Record<string, unknown>;
  };
  const made = await call(first.restUrl, '/models', { name: 'heart' });
  const config = readCoordinatorConfig(environment('old'));
  await expect(backupCoordinator(config, output, settings)).rejects.toMatchObject({ code: 'store_locked' });
  await first.stop();
  const manifest = await backupCoordinator(config, output, settings);
  expect(manifest.tables.find(({ name }) => name === 'models')?.rows).toBe(1);

  await restoreCoordinator(readCoordinatorConfig(environment('new')), output, settings);
  const second = await startCoordinator({ environment: environment('new'), logger: silentLogger });
  expect(second.bootstrapApiKey).toBeUndefined();
  expect(await call(second.restUrl, '/models/heart')).toMatchObject({ id: made['id'] });
  expect(await call(second.restUrl, '/audit')).toMatchObject({ entries: [{ resource: `models/${made['id']}` }] });
  await second.stop();
  await expect(restoreCoordinator(readCoordinatorConfig(environment('new')), output, settings)).rejects.toMatchObject({
    code: 'conflict',
  });
}, 240_000);
