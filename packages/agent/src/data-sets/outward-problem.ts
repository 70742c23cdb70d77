import { OctomilError } from '@octomil/shared/errors';
import { problemOf } from '@octomil/shared/storage';

/** Problems of stores in words of our own: the error itself names buckets, keys, hosts and accounts. */
const WORDS: Readonly<Record<string, string>> = {
  missing_object: 'there is no such file in its store',
  missing_bucket: 'its store has no such bucket or container',
  no_credentials: 'the site has no credentials for its store',
  bad_credentials: 'its store does not know the credentials of the site',
  expired_credentials: 'the credentials of the site for its store have expired',
  denied: 'its store denies access to the site',
  wrong_region: 'its bucket lies in another region than the site thinks',
  changed: 'its files changed while they were fetched, again and again',
  unreachable: 'its store cannot be reached from the site',
  timeout: 'its store did not answer in time',
  busy: 'its store is overloaded or failing',
  refused: 'its store refused the request',
  too_many: 'more files match than are read',
  too_large: 'its files are larger than the room that the site has for copies (source_cache_mb)',
  insufficient_storage: 'the disk of the site has no room for a copy of its files',
  corrupt_file: 'one of its files is damaged or half-written',
  network_unavailable: 'its store cannot be reached from the site',
  request_timeout: 'its store did not answer in time',
  transfer_incomplete: 'its files could not be fetched whole',
  cancelled: 'fetching its files was cancelled',
};

/**
 * Why remote files could not be had, as it may leave the site: by the kind of the problem alone. What it says in full is
 * the cause, for the site's own log.
 */
export function outwardProblem(error: OctomilError): OctomilError {
  const words = WORDS[problemOf(error) ?? error.code] ?? WORDS[error.code] ?? 'its files could not be fetched';
  return new OctomilError(error.code, `${words}; the log of the site names the place`, { cause: error });
}
