import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { systemClock } from '../../runtime/index.js';
import { objectStoreContract } from '../object-store-contract.js';
import { bucketOfStore } from '../open-object-store.js';
import { directTransfersContract } from './direct-transfers-contract.js';
import { BucketObjectStore, openBucket } from './index.js';
import { cannotShow, testUnless } from './stand-in-server.js';

/** Servers that `scripts/with-clouds.js` starts. */
const CLOUDS = { S3: 'TEST_S3_URL', GCS: 'TEST_GCS_URL', Azure: 'TEST_AZURE_URL' };

for (const [name, variable] of Object.entries(CLOUDS)) {
  const url = process.env[variable];
  if (url === undefined) {
    describe(`ObjectStore contract on ${name}`, () => {
      test.skip(`${variable} is not set: run through scripts/with-clouds.js`, () => undefined);
    });
    continue;
  }
  const open = async () => {
    const temporaryFolder = await mkdtemp(join(tmpdir(), 'octomil-bucket-'));
    const { address, prefix } = bucketOfStore(`${url}/${randomUUID()}`);
    const client = await openBucket(address, { environment: process.env, purpose: 'store' });
    // The smallest parts that S3 takes, so that a put of several stays quick.
    const store = await BucketObjectStore.open({
      client,
      prefix,
      temporaryFolder,
      clock: systemClock,
      partSizeBytes: 5 * 1024 * 1024,
    });
    return {
      store,
      close: async () => {
        await store.close();
        await rm(temporaryFolder, { recursive: true });
      },
    };
  };
  const server = variable.replace('_URL', '_SERVER');
  const noParts = cannotShow(server, 'parts of an upload');
  objectStoreContract(name, open, { noShortRanges: cannotShow(server, 'ranges of one byte') });
  const tellsReceived = cannotShow(server, 'questions about an upload') === undefined;
  directTransfersContract(name, open, {
    tellsReceived,
    noParts,
    noNames: cannotShow(server, 'names of downloads'),
  });

  const puts = `${name}: a put of several parts gives back what was put, and one that fails late changes nothing`;
  testUnless(noParts, puts, async () => {
    const { store, close } = await open();
    const bytes = randomBytes(11 * 1024 * 1024 + 17);
    async function* stream(failing: boolean) {
      for (let at = 0; at < bytes.length; at += 700_001) yield bytes.subarray(at, at + 700_001);
      if (failing) throw new TypeError('the sender went away');
    }
    await store.put('large', stream(false));
    expect(bytes.equals(await store.readAll('large', bytes.length))).toBe(true);
    await expect(store.put('large', stream(true))).rejects.toThrow('the sender went away');
    await expect(store.put('other', stream(true))).rejects.toThrow('the sender went away');
    expect(await store.stat('other')).toBeUndefined();
    expect(bytes.equals(await store.readAll('large', bytes.length))).toBe(true);
    await close();
  });
}
