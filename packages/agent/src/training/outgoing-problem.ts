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
 *
 * @param columnsAreListed whether the rule that allows the work names columns: then no others are named either
 */
export function outgoingProblem(error: OctomilError, paths: readonly string[], columnsAreListed = false): OctomilError {
  const told = withoutFolders(error.reason.split('\n')[0] ?? '', paths);
  const reason = columnsAreListed
    ? told.replace(/its columns are .*$/, "the site's policy lets no other columns be named")
    : told;
  return new OctomilError(error.code, reason.slice(0, MAX_CHARACTERS), {
    cause: error,
    ...(error.details !== undefined && OWN_DETAILS.has(error.code) ? { details: error.details } : {}),
  });
}
