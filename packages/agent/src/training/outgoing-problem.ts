import { OctomilError } from '@octomil/shared/errors';
import { withoutFolders } from '../data-sets/without-folders.js';

/** Codes whose details are this agent's own words and name nothing of the data. */
const OWN_DETAILS: ReadonlySet<string> = new Set([
  'policy_denied',
  'data_mismatch',
  'checksum_mismatch',
  'request_timeout',
  'conditions_not_met',
]);
const MAX_CHARACTERS = 1_000;

/**
 * An error as it may leave the site: one line, file names without their folders, and no output of the trainer process,
 * which could quote data.
 */
export function outgoingProblem(error: OctomilError, paths: readonly string[]): OctomilError {
  const reason = withoutFolders(error.reason.split('\n')[0] ?? '', paths);
  return new OctomilError(error.code, reason.slice(0, MAX_CHARACTERS), {
    cause: error,
    ...(error.details !== undefined && OWN_DETAILS.has(error.code) ? { details: error.details } : {}),
  });
}
