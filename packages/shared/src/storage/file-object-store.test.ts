import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { OctomilError } from '../errors/index.js';
import { lockFolder, systemClock } from '../runtime/index.js';
import { FileObjectStore } from './file-object-store.js';
import { requireFreeSpace } from './free-space.js';
import { objectStoreContract } from './object-store-contract.js';

const newFolder = () => mkdtemp(join(tmpdir(), 'octomil-store-'));

for (const options of [
  { durable: false, shared: false },
  { durable: true, shared: false },
  { durable: false, shared: true },
]) {
  objectStoreContract(`a folder, ${JSON.stringify(options)}`, async () => {
    const folder = await newFolder();
    const store = await FileObjectStore.open({ folder, clock: systemClock, ...options });
    return {
      store,
      close: async () => {
        await store.close();
        await rm(folder, { recursive: true });
      },
    };
  });
}

test('what a killed writer left is swept when the folder is opened; a failed put leaves nothing', async () => {
  const folder = await newFolder();
  await mkdir(join(folder, 'temporary'), { recursive: true });
  await writeFile(join(folder, 'temporary', 'orphan'), 'half');
  const store = await FileObjectStore.open({ folder, durable: false, clock: systemClock });
  expect(await readdir(join(folder, 'temporary'))).toEqual([]);
  async function* full() {
    yield Buffer.from('half');
    throw Object.assign(new OctomilError('unknown', 'no space left on device'), { code: 'ENOSPC' });
  }
  await expect(store.put('a', full())).rejects.toMatchObject({ code: 'insufficient_storage' });
  expect(await readdir(join(folder, 'temporary'))).toEqual([]);
  await store.close();
  await rm(folder, { recursive: true });
});

test('a folder is held by one process: refused while it lives, free once it was killed', async () => {
  const folder = await newFolder();
  const held = spawn(process.execPath, [
    '-e',
    `const { DatabaseSync } = require('node:sqlite');
     const { writeFileSync } = require('node:fs');
     const database = new DatabaseSync(${JSON.stringify(join(folder, '.octomil-lock'))});
     database.exec('begin exclusive');
     writeFileSync(${JSON.stringify(join(folder, '.octomil-lock-holder.json'))},
       JSON.stringify({ pid: process.pid, host: 'elsewhere', since: 'now' }));
     console.log('held');
     setInterval(() => database.isOpen, 1000);`,
  ]);
  await once(held.stdout, 'data');
  const refused = lockFolder(folder, () => 0);
  await expect(refused).rejects.toMatchObject({ code: 'store_locked', details: { folder, pid: held.pid } });
  const exited = once(held, 'exit');
  held.kill('SIGKILL');
  await exited;
  const lock = await lockFolder(folder, () => 0);
  await expect(lockFolder(folder, () => 0)).rejects.toMatchObject({ details: { pid: process.pid } });
  await lock.release();
  await lock.release();
  await (await lockFolder(folder, () => 0)).release();
  await rm(folder, { recursive: true });
});

test('a shared folder takes several stores, keeps unfinished objects of the others, and nobody may have it alone', async () => {
  const folder = await newFolder();
  const temporary = join(folder, 'temporary');
  const open = (shared: boolean) => FileObjectStore.open({ folder, durable: false, clock: systemClock, shared });
  const one = await open(true);
  const gate = Promise.withResolvers<void>();
  async function* slow() {
    yield Buffer.from('first half, ');
    await gate.promise;
    yield Buffer.from('second half');
  }
  const putting = one.put('a', slow());
  while ((await readdir(temporary)).length === 0) await systemClock.sleep(1);
  await writeFile(join(temporary, 'abandoned'), '');
  const twoDaysAgo = new Date(Date.now() - 48 * 3_600_000);
  await utimes(join(temporary, 'abandoned'), twoDaysAgo, twoDaysAgo);
  const two = await open(true);
  expect(await readdir(temporary)).toHaveLength(1);
  gate.resolve();
  await putting;
  expect(Buffer.from(await two.readAll('a', 100)).toString()).toBe('first half, second half');
  await one.close();
  await expect(open(false)).rejects.toMatchObject({ code: 'store_locked' });
  await two.close();
  await two.close();
  const alone = await open(false);
  await expect(open(true)).rejects.toMatchObject({ code: 'store_locked', details: { pid: process.pid } });
  await alone.close();
  await rm(folder, { recursive: true });
});

test('free space is checked against what is needed', async () => {
  await requireFreeSpace(tmpdir(), 1);
  await expect(requireFreeSpace(tmpdir(), Number.MAX_SAFE_INTEGER)).rejects.toMatchObject({
    code: 'insufficient_storage',
  });
});
