import { OctomilError } from '@octomil/shared/errors';
import semver from 'semver';

/** The canonical form of a semantic version. @throws OctomilError `invalid_input` */
export function parseVersion(text: string): string {
  const version = semver.valid(text);
  if (version === null || version.length > 100) {
    throw new OctomilError('invalid_input', `"${text.slice(0, 100)}" is no semantic version; write it like 1.2.0`);
  }
  return version;
}

/** The version after the highest of these: its next minor; `1.0.0` for the first. */
export function nextVersion(existing: readonly string[]): string {
  const highest = semver.rsort([...existing])[0];
  return (highest === undefined ? null : semver.inc(highest, 'minor')) ?? '1.0.0';
}

/** How a path names a version: by sequence number, as `latest`, or by semantic version. */
export type VersionName = { sequence: number } | { version: string } | 'latest';

export function parseVersionName(text: string): VersionName {
  if (text === 'latest') return 'latest';
  // Twelve digits at most: more would not be a sequence, and would overflow the column's type.
  if (/^\d{1,9}$/.test(text)) return { sequence: Number(text) };
  return { version: semver.valid(text) ?? text };
}
