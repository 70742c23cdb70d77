import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { type ModelRegistry, type ModelVersion, OctomilClientError, type UploadTicket } from '@octomil/sdk';
import { OctomilError } from '@octomil/shared/errors';
import { transferBar } from '../terminal/transfer-bar.js';
import { keptTicket } from './kept-tickets.js';
import type { LocalFile } from './local-files.js';

export interface PushTarget {
  readonly registry: ModelRegistry;
  readonly apiBase: string;
  /** Name or id. */
  readonly model: string;
  /** Default: the next, which the first file makes. */
  readonly version: string | undefined;
  readonly description: string | undefined;
  /** For the coordinator to make. */
  readonly formats: readonly string[];
  readonly signal: AbortSignal;
}

/** What a ticket that is of no use any more is answered with. */
const SPENT: ReadonlySet<string> = new Set(['ticket_invalid', 'ticket_expired', 'not_found', 'transfer_incomplete']);

/**
 * Makes a version of files. Repeated after it was cut off, it goes on: files that are there are left out, and one that
 * was under way is continued.
 *
 * @throws OctomilError `conflict` when the version has another file of a format, or is published; else as
 * `ModelRegistry.uploadVersionFromPath`
 */
export async function pushFiles(files: readonly LocalFile[], target: PushTarget): Promise<ModelVersion> {
  const there = await digestsThere(target);
  const missing: LocalFile[] = [];
  for (const file of files) if (!(await isThere(file, there, target))) missing.push(file);
  let { version } = target;
  let made: ModelVersion | undefined;
  for (const [index, file] of missing.entries()) {
    // With the last one: what the coordinator makes may need the others.
    const formats = index === missing.length - 1 ? target.formats : [];
    made = await upload(file, { ...target, version, formats });
    version = made.version;
  }
  if (made !== undefined) return made;
  const of = { modelId: target.model, version: version ?? 'latest', signal: target.signal };
  if (target.formats.length > 0) await target.registry.conversions.request({ ...of, formats: target.formats });
  return target.registry.version(of.modelId, of.version, of.signal);
}

/** SHA-256 by format of what the version has. */
async function digestsThere({ registry, model, version, signal }: PushTarget): Promise<ReadonlyMap<string, string>> {
  if (version === undefined) return new Map();
  try {
    const { artifacts } = await registry.version(model, version, signal);
    if (!Array.isArray(artifacts)) return new Map();
    return new Map(artifacts.map((row: Record<string, unknown>) => [String(row['format']), String(row['sha256'])]));
  } catch (error) {
    if (error instanceof OctomilClientError && error.code === 'version_not_found') return new Map();
    throw error;
  }
}

async function isThere(file: LocalFile, there: ReadonlyMap<string, string>, target: PushTarget): Promise<boolean> {
  const digest = file.format === undefined ? undefined : there.get(file.format);
  if (digest === undefined) return false;
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file.path)) hash.update(chunk as Uint8Array);
  if (hash.digest('hex') === digest) return true;
  throw new OctomilError(
    'conflict',
    `${target.model} ${target.version} has another ${file.format} file, and versions do not change; push with another --version`,
  );
}

async function upload(file: LocalFile, target: PushTarget): Promise<ModelVersion> {
  const { registry, apiBase, model, version, description, formats, signal } = target;
  const bar = transferBar(basename(file.path));
  const kept = await keptTicket(file.path, [apiBase, model, version ?? '', file.format ?? '']);
  const send = async (resume: UploadTicket | undefined): Promise<ModelVersion> => {
    let keeping: Promise<void> = Promise.resolve();
    try {
      return await registry.uploadVersionFromPath({
        modelId: model,
        filePath: file.path,
        formats,
        signal,
        onProgress: bar.show,
        onTicket: (ticket) => {
          // A file that goes whole has nothing to go on with.
          if (ticket.partSizeBytes !== null) keeping = kept.keep(ticket).catch(() => undefined);
        },
        ...(version === undefined ? {} : { version }),
        ...(description === undefined ? {} : { description }),
        ...(file.format === undefined ? {} : { format: file.format }),
        ...(resume === undefined ? {} : { resume }),
      });
    } finally {
      await keeping;
    }
  };
  try {
    const ticket = await kept.read();
    const made = await send(ticket).catch((error: unknown) => {
      if (ticket === undefined || !(error instanceof OctomilClientError) || !SPENT.has(error.code)) throw error;
      return send(undefined);
    });
    await kept.forget();
    return made;
  } finally {
    bar.end();
  }
}
