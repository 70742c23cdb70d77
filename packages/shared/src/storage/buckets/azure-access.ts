import type { ContainerClient, StoragePipelineOptions } from '@azure/storage-blob';
import { OctomilError } from '../../errors/index.js';
import type { BucketAddress } from './bucket-address.js';
import type { BucketErrors } from './bucket-problem.js';
import { type Environment, proxyOf } from './proxies.js';

type AzureAddress = Extract<BucketAddress, { provider: 'az' }>;

export interface AzureAccess {
  readonly container: ContainerClient;
  /** Signs URLs that others may use; absent where the credentials cannot (a signature, or none at all). */
  readonly signing: 'account_key' | 'user_delegation' | undefined;
}

/** Where `environment` names no proxy for the endpoint, the SDK looks at the variables of this process. */
function pipelineOptions(environment: Environment, endpoint: string): StoragePipelineOptions {
  const proxy = proxyOf(environment, endpoint);
  return {
    retryOptions: { maxTries: 3, retryDelayInMs: 300, maxRetryDelayInMs: 5000, tryTimeoutInMs: 60_000 },
    ...(proxy === undefined
      ? {}
      : {
          proxyOptions: {
            host: `${proxy.protocol}//${proxy.hostname}`,
            port: Number(proxy.port || (proxy.protocol === 'https:' ? 443 : 80)),
            username: proxy.username,
            password: proxy.password,
          },
        }),
  };
}

/**
 * Finds the credentials for a container: the signature of the URL, AZURE_STORAGE_CONNECTION_STRING,
 * AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, then what `@azure/identity` finds
 * where it is installed. None of these is read by the SDK itself. Credentials of one account are never sent to another.
 *
 * @throws what `errors` makes of missing credentials; `config_invalid` for a connection string that is none
 */
export async function openAzureAccess(
  address: AzureAddress,
  environment: Environment,
  errors: BucketErrors,
): Promise<AzureAccess> {
  const sdk = await import('@azure/storage-blob');
  const { container } = address;
  const connection = environment['AZURE_STORAGE_CONNECTION_STRING'] || undefined;
  const name = environment['AZURE_STORAGE_ACCOUNT_NAME'] || environment['AZURE_STORAGE_ACCOUNT'] || undefined;
  const key = environment['AZURE_STORAGE_ACCOUNT_KEY'] || environment['AZURE_STORAGE_KEY'] || undefined;
  const sas = address.sas ?? (environment['AZURE_STORAGE_SAS_TOKEN']?.replace(/^\?/, '') || undefined);
  const endpointOf = (account: string): string =>
    environment['AZURE_STORAGE_BLOB_ENDPOINT']?.replace(/\/+$/, '') ||
    `https://${account}.blob.${address.domain ?? 'core.windows.net'}`;

  if (address.sas !== undefined && address.account !== undefined) {
    const url = `https://${address.account}.blob.${address.domain ?? 'core.windows.net'}/${container}?${address.sas}`;
    return {
      container: new sdk.ContainerClient(url, undefined, pipelineOptions(environment, url)),
      signing: undefined,
    };
  }
  if (connection !== undefined) {
    const service = fromConnectionString(sdk, connection, environment);
    if (address.account === undefined || service.accountName === address.account) {
      const signing = /AccountKey=/i.test(connection) || /UseDevelopmentStorage=true/i.test(connection);
      return { container: service.getContainerClient(container), signing: signing ? 'account_key' : undefined };
    }
  }
  const account = address.account ?? name;
  if (account !== undefined && key !== undefined && (name === undefined || name === account)) {
    if (Buffer.from(key, 'base64').length === 0) throw errors.make({ problem: 'bad_credentials' });
    const credential = new sdk.StorageSharedKeyCredential(account, key);
    const url = `${endpointOf(account)}/${container}`;
    return {
      container: new sdk.ContainerClient(url, credential, pipelineOptions(environment, url)),
      signing: 'account_key',
    };
  }
  if (account !== undefined && sas !== undefined && (name === undefined || name === account)) {
    const url = `${endpointOf(account)}/${container}?${sas}`;
    return {
      container: new sdk.ContainerClient(url, undefined, pipelineOptions(environment, url)),
      signing: undefined,
    };
  }
  if (account === undefined) throw errors.make({ problem: 'no_credentials' });
  const identity = await identityCredential();
  if (identity === undefined) throw errors.make({ problem: 'no_credentials' });
  const url = `${endpointOf(account)}/${container}`;
  return {
    container: new sdk.ContainerClient(url, identity, pipelineOptions(environment, url)),
    signing: 'user_delegation',
  };
}

function fromConnectionString(sdk: typeof import('@azure/storage-blob'), text: string, environment: Environment) {
  try {
    const { url } = sdk.BlobServiceClient.fromConnectionString(text);
    return sdk.BlobServiceClient.fromConnectionString(text, pipelineOptions(environment, url));
  } catch {
    // Its message may quote the string, and the string holds the key.
    throw new OctomilError(
      'config_invalid',
      'AZURE_STORAGE_CONNECTION_STRING is no connection string; copy it whole from "Access keys" of the storage account',
    );
  }
}

type TokenCredential = Extract<ContainerClient['credential'], { getToken: unknown }>;

/** An optional peer: 50 MB that only those need who sign in with Microsoft Entra. */
async function identityCredential(): Promise<TokenCredential | undefined> {
  const name = '@azure/identity';
  try {
    const { DefaultAzureCredential } = (await import(name)) as { DefaultAzureCredential: new () => TokenCredential };
    return new DefaultAzureCredential();
  } catch {
    return undefined;
  }
}
