import { createHash } from 'node:crypto';
import { mkdir, readFile, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { UploadTicket } from '@octomil/sdk';
import { credentialsPath } from '../access/credentials.js';
import { writeAtomically } from '../terminal/write-file.js';

/** Where an upload goes on that an earlier command began. */
export interface KeptTicket {
  read(): Promise<UploadTicket | undefined>;
  keep(ticket: UploadTicket): Promise<void>;
  forget(): Promise<void>;
}

/**
 * Beside the credentials, for this content at this path alone: a file that was written to since begins anew. Whoever reads
 * it may write that one upload, so it is for this user alone.
 */
export async function keptTicket(path: string, destination: readonly string[]): Promise<KeptTicket> {
  const { size, mtimeMs } = await stat(path);
  const name = createHash('sha256')
    .update(JSON.stringify([...destination, resolve(path), size, mtimeMs]))
    .digest('hex');
  const file = join(dirname(credentialsPath()), 'uploads', `${name}.json`);
  return {
    read: async () => {
      const text = await readFile(file, 'utf8').catch(() => undefined);
      return text === undefined ? undefined : (JSON.parse(text) as UploadTicket);
    },
    keep: async (ticket) => {
      await mkdir(dirname(file), { recursive: true, mode: 0o700 });
      await writeAtomically(file, JSON.stringify(ticket), 0o600);
    },
    forget: () => rm(file, { force: true }),
  };
}
