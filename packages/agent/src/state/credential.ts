import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { writeAtomically } from './atomic-file.js';

/** What enrolment bought. */
export interface DeviceCredential {
  readonly deviceId: string;
  readonly organizationId: string;
  readonly deviceIdentifier: string;
  /** Secret. */
  readonly credential: string;
  /** Digest of the enrolment token that was spent, so that a new token in the configuration is noticed. */
  readonly tokenSha256: string;
}

export function tokenDigest(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

/**
 * @returns undefined where the agent is not enrolled yet
 * @throws OctomilError `config_invalid` when others than the owner may read it, or when it is not a credential
 */
export async function readCredential(path: string): Promise<DeviceCredential | undefined> {
  let mode: number;
  let text: string;
  try {
    mode = (await stat(path)).mode;
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new OctomilError(
      'config_invalid',
      `the credential file ${path} cannot be read (${(error as NodeJS.ErrnoException).code})`,
      { cause: error },
    );
  }
  if (process.platform !== 'win32' && (mode & 0o077) !== 0) {
    throw new OctomilError(
      'config_invalid',
      `the credential file ${path} has mode ${(mode & 0o777).toString(8)}: others could have copied it. ` +
        `Run "chmod 600 ${path}" if nobody did; else remove it and enrol with a new token`,
    );
  }
  let parsed: Partial<DeviceCredential> | undefined;
  try {
    parsed = JSON.parse(text) as Partial<DeviceCredential>;
  } catch {
    parsed = undefined;
  }
  const fields = ['deviceId', 'organizationId', 'deviceIdentifier', 'credential', 'tokenSha256'] as const;
  if (parsed === undefined || parsed === null || fields.some((name) => typeof parsed[name] !== 'string')) {
    throw new OctomilError(
      'config_invalid',
      `the credential file ${path} is damaged; remove it and enrol with a new token`,
    );
  }
  return parsed as DeviceCredential;
}

/** Durable: the token is spent, so losing the file would lose the device. */
export async function writeCredential(path: string, credential: DeviceCredential): Promise<void> {
  await writeAtomically(path, `${JSON.stringify(credential, null, 2)}\n`, { mode: 0o600, durable: true });
}
