import type { BucketAddress } from './bucket-address.js';
import type { BucketClient } from './bucket-client.js';
import type { BucketPurpose } from './bucket-problem.js';
import type { Environment } from './proxies.js';

export interface OpenBucketOptions {
  /** Where credentials, endpoints and proxies are read. They are held in memory only, and never logged. */
  readonly environment: Environment;
  readonly purpose: BucketPurpose;
}

/**
 * Opens a bucket. The provider's SDK is loaded here and not before.
 *
 * @throws OctomilError with a code by `purpose` when no credentials are found, as far as that shows before the first request
 */
export async function openBucket(address: BucketAddress, options: OpenBucketOptions): Promise<BucketClient> {
  switch (address.provider) {
    case 's3':
      return (await import('./s3-client.js')).openS3Client({ ...options, bucket: address.bucket });
    case 'gs':
      return (await import('./gcs-client.js')).openGcsClient({ ...options, bucket: address.bucket });
    case 'az':
      return (await import('./azure-client.js')).openAzureClient({ ...options, address });
  }
}
