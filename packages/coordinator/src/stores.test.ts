import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { Lifecycle, silentLogger, systemClock } from '@octomil/shared/runtime';
import { readCoordinatorConfig } from './config.js';
import { openStores } from './stores.js';

test('a file in the place of the data folder is told with its setting', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-stores-'));
  const path = join(folder, 'file');
  await writeFile(path, '');
  try {
    for (const dataDir of [path, join(path, 'below')]) {
      const options = {
        config: readCoordinatorConfig({ OCTOMIL_DATA_DIR: dataDir }),
        inMemory: true,
        databaseDump: undefined,
        logger: silentLogger,
        clock: systemClock,
        random: Math.random,
      };
      await expect(openStores(options, new Lifecycle())).rejects.toMatchObject({
        code: 'config_invalid',
        reason: `OCTOMIL_DATA_DIR=${dataDir} cannot be made a folder (a file is in its place); name another (octomil up --data-dir)`,
      });
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

(process.platform === 'win32' ? test.skip : test)(
  'the folder of updates and models is for its owner alone',
  async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'octomil-stores-'));
    const config = readCoordinatorConfig({ OCTOMIL_DATA_DIR: dataDir });
    const lifecycle = new Lifecycle();
    try {
      const options = { databaseDump: undefined, logger: silentLogger, clock: systemClock, random: Math.random };
      await openStores({ ...options, config, inMemory: true }, lifecycle);
      expect((await stat(config.objectFolder)).mode & 0o777).toBe(0o700);
    } finally {
      await lifecycle.stop();
      await rm(dataDir, { recursive: true });
    }
  },
);
