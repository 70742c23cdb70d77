import { chmod, mkdir, readFile, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { writeAtomically } from '../terminal/write-file.js';

/** What `octomil login` keeps. */
export interface Credentials {
  /** The key is for this coordinator, and goes to no other. */
  readonly apiBase: string;
  readonly apiKey: string;
}

/** `OCTOMIL_CREDENTIALS`, else `~/.octomil/credentials`. */
export function credentialsPath(): string {
  const { OCTOMIL_CREDENTIALS: path, HOME: home } = process.env;
  return path || join(home || homedir(), '.octomil', 'credentials');
}

/** Undefined before a login. @throws OctomilError `corrupt_file` for a file that is none of ours, `forbidden` when it is closed to us */
export async function readCredentials(): Promise<Credentials | undefined> {
  const path = credentialsPath();
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    const { code } = error as { code?: string };
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new OctomilError('forbidden', `${path} cannot be read (${code})`, { cause: error });
  });
  if (text === undefined) return undefined;
  const { api_base: apiBase, api_key: apiKey } = parse(text);
  if (typeof apiKey === 'string' && typeof apiBase === 'string') return { apiBase, apiKey };
  throw new OctomilError('corrupt_file', `${path} holds no key; "octomil login" writes it anew`);
}

/** Readable by this user alone. @returns its path */
export async function writeCredentials({ apiBase, apiKey }: Credentials): Promise<string> {
  const path = credentialsPath();
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const text = `${JSON.stringify({ api_base: apiBase, api_key: apiKey }, null, 2)}\n`;
  await writeAtomically(path, text, 0o600);
  await chmod(path, 0o600);
  return path;
}

/** @returns whether there was one */
export async function removeCredentials(): Promise<boolean> {
  const there = (await readCredentials().catch(() => ({}))) !== undefined;
  await rm(credentialsPath(), { force: true });
  return there;
}

function parse(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
