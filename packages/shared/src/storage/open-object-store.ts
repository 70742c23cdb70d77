import { OctomilError } from '../errors/index.js';
import type { Clock } from '../runtime/index.js';
import { BucketObjectStore, type Environment, openBucket, parseBucketUrl } from './buckets/index.js';
import { checkObjectKey } from './object-key.js';
import type { ObjectStore } from './object-store.js';

export interface OpenObjectStoreOptions {
  readonly environment: Environment;
  /** For temporary copies; processes may share it. */
  readonly temporaryFolder: string;
  readonly clock: Clock;
}

/**
 * Opens the objects of a coordinator in a bucket: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`,
 * `abfss://…` or `https://account.blob.core.windows.net/container/prefix`.
 *
 * @throws OctomilError `config_invalid` for another URL, a bucket that is missing or may not be used, or missing
 * credentials; `network_unavailable`, `request_timeout`
 */
export async function openObjectStore(
  url: string,
  { environment, temporaryFolder, clock }: OpenObjectStoreOptions,
): Promise<ObjectStore & { close(): Promise<void> }> {
  const { address, prefix } = bucketOfStore(url);
  const client = await openBucket(address, { environment, purpose: 'store' });
  try {
    return await BucketObjectStore.open({ client, prefix, temporaryFolder, clock });
  } catch (error) {
    await client.close();
    throw error;
  }
}

/** The bucket and prefix of a store's URL. @throws OctomilError `config_invalid` */
export function bucketOfStore(url: string) {
  const found = parseStoreUrl(url);
  if (found === undefined) {
    throw new OctomilError(
      'config_invalid',
      'the URL of the object store must be s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER',
    );
  }
  const words = found.key.replace(/\/+$/, '');
  if (words === '') return { address: found.address, prefix: '' };
  try {
    checkObjectKey(words);
  } catch (cause) {
    throw new OctomilError(
      'config_invalid',
      `the prefix "${words.slice(0, 100)}" of the object store is not valid; use words of A-Z, a-z, 0-9, ".", "_" and "-" between slashes`,
      { cause },
    );
  }
  return { address: found.address, prefix: `${words}/` };
}

function parseStoreUrl(url: string) {
  try {
    return parseBucketUrl(url);
  } catch (cause) {
    throw new OctomilError('config_invalid', cause instanceof OctomilError ? cause.reason : 'the URL is not valid', {
      cause,
    });
  }
}
