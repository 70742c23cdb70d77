import { OctomilError } from '@octomil/shared/errors';
import {
  type BucketObject,
  describeBucket,
  type Environment,
  openBucket,
  problemOf,
  type SourceClient,
} from '@octomil/shared/storage';
import { localClient } from './local-client.js';
import type { SourceUrl } from './source-url.js';
import { openWebClient } from './web-client.js';

/** Opens the client of a source's place. Its provider's SDK is loaded here and not before. Close it when done. */
export async function openSourceClient(source: SourceUrl, environment: Environment): Promise<SourceClient> {
  switch (source.place.kind) {
    case 'file':
      return localClient;
    case 'bucket':
      return openBucket(source.place.address, { environment, purpose: 'source' });
    case 'web':
      return openWebClient(environment, source.display);
  }
}

/** An object of a source as it may be shown. */
export function describeObject(source: SourceUrl, key: string): string {
  switch (source.place.kind) {
    case 'file':
      return key;
    case 'bucket':
      return `${describeBucket(source.place.address)}${key}`;
    case 'web':
      return source.display;
  }
}

/**
 * What the client says of an object; `undefined` where there is none. Answers to HEAD have no body, and so no word on why
 * they are refused: whether credentials are wrong, past their end, or not enough. Asking for the first byte tells.
 */
export async function statObject(
  client: SourceClient,
  key: string,
  signal?: AbortSignal,
): Promise<BucketObject | undefined> {
  try {
    return await client.stat(key, signal);
  } catch (error) {
    const problem = problemOf(error);
    if (problem !== 'refused' && problem !== 'denied' && problem !== 'bad_credentials') throw error;
    try {
      for await (const _ of client.stream(key, { range: { start: 0, end: 1 }, signal })) break;
    } catch (refused) {
      throw problemOf(refused) === undefined ? error : refused;
    }
    throw error;
  }
}

/** For a key that is not there: the bucket may be what is missing. */
export async function missingObject(client: SourceClient, place: string, signal?: AbortSignal): Promise<OctomilError> {
  await client.check(signal);
  return new OctomilError(
    'data_unreadable',
    `${place}: there is no such file or object; check the key, its upper and lower case included`,
    { details: { problem: 'missing_object', location: place } },
  );
}
