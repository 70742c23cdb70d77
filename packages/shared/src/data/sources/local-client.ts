import { createReadStream, type Stats } from 'node:fs';
import { open, opendir, stat } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import type { BucketObject, SourceClient } from '@octomil/shared/storage';

/** Files of this machine behind the port of buckets. Keys are absolute paths with slashes. */
export const localClient: SourceClient = {
  stat: async (path) => {
    const found = await stat(path).catch((error: unknown) => {
      if (isMissing(error)) return undefined;
      throw unreadable(path, error);
    });
    return found?.isFile() ? toObject(path, found) : undefined;
  },

  async *stream(path, { range, tag, signal } = {}) {
    const file = await open(path).catch((error: unknown) => {
      throw unreadable(path, error);
    });
    const found = await file.stat();
    if (tag !== undefined && tagOf(found) !== tag) {
      await file.close();
      throw changed(path);
    }
    const bounds = range === undefined ? {} : { start: range.start, end: range.end - 1 };
    const options = { fd: file, highWaterMark: 1 << 20, ...(signal === undefined ? {} : { signal }) };
    yield* createReadStream(path, { ...options, ...bounds }) as AsyncIterable<Uint8Array>;
    if (tag !== undefined && tagOf(await stat(path)) !== tag) throw changed(path);
  },

  async *list(prefix, signal) {
    yield* walk(prefix.slice(0, prefix.lastIndexOf('/') + 1) || '/', prefix, signal);
  },

  check: async () => undefined,
  close: async () => undefined,
};

async function* walk(folder: string, prefix: string, signal: AbortSignal | undefined): AsyncGenerator<BucketObject> {
  const entries = await opendir(folder).catch((error: unknown) => {
    if (isMissing(error)) return [];
    throw unreadable(folder, error);
  });
  for await (const entry of entries) {
    signal?.throwIfAborted();
    const path = `${folder}${entry.name}`;
    if (entry.isDirectory()) {
      if (`${path}/`.startsWith(prefix) || prefix.startsWith(`${path}/`)) yield* walk(`${path}/`, prefix, signal);
    } else if (path.startsWith(prefix)) {
      // Links are followed to files, not to folders: those may lead back here.
      const found = await stat(path).catch(() => undefined);
      if (found?.isFile()) yield toObject(path, found);
    }
  }
}

function toObject(key: string, found: Stats): BucketObject {
  return { key, sizeBytes: found.size, modifiedAtMs: found.mtimeMs, tag: tagOf(found) };
}

function tagOf({ ino, size, mtimeMs }: Stats): string {
  return `${ino}-${size}-${mtimeMs}`;
}

function isMissing(error: unknown): boolean {
  const code = (error as { code?: unknown }).code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function unreadable(path: string, cause: unknown): OctomilError {
  const { code } = cause as { code?: unknown };
  const why = isMissing(cause)
    ? 'there is no such file; check the path'
    : code === 'EACCES' || code === 'EPERM'
      ? 'this process may not read it; check the permissions of the file and its folders'
      : `it cannot be opened (${String(code)})`;
  return new OctomilError('data_unreadable', `${path}: ${why}`, { cause });
}

function changed(path: string): OctomilError {
  return new OctomilError(
    'data_unreadable',
    `${path} changed while it was read; write a new file rather than over one in use`,
    {
      details: { problem: 'changed', location: path },
    },
  );
}
