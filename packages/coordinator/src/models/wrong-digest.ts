import { OctomilError } from '@octomil/shared/errors';

export function wrongDigest(actual: string, expected: string): OctomilError {
  return new OctomilError(
    'checksum_mismatch',
    `the file has SHA-256 ${actual}, not the ${expected} that was given; upload it again`,
    { details: { sha256: actual, expected } },
  );
}
