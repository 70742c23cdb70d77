import { crc32 } from 'node:zlib';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type Entry, fromBufferPromise, openPromise, type ZipFile } from 'yauzl';
import { ZipFile as ZipWriter } from 'yazl';

/** A zip whose entries are stored as they are, the only kind that `torch.save` and `numpy.savez` write. */
export interface StoredZip {
  /** Sizes by name. */
  readonly sizes: ReadonlyMap<string, number>;
  /** An entry's bytes, in memory of their own. @throws OctomilError `corrupt_file`, also when its checksum differs */
  read(name: string): Promise<Uint8Array>;
  close(): void;
}

const MAX_ENTRIES = 250_000;

/**
 * Opens a zip, and refuses compressed entries: nothing can unfold into more than the file has. Together the entries may
 * not be larger than the file either, so none can be read twice under two names.
 *
 * @param source the whole file, or its path
 * @throws OctomilError `corrupt_file`; errors of the file system as they are
 */
export async function openStoredZip(source: Uint8Array | string): Promise<StoredZip> {
  const options = { lazyEntries: true, autoClose: false };
  const zip = await asCorrupt(
    typeof source === 'string' ? openPromise(source, options) : fromBufferPromise(asBuffer(source), options),
  );
  // Emitted when the file cannot be read any more; whoever reads is told by the promise.
  zip.on('error', () => undefined);
  try {
    const entries = await asCorrupt(readEntries(zip));
    return {
      sizes: new Map([...entries].map(([name, entry]) => [name, entry.uncompressedSize])),
      read: async (name) => {
        const entry = entries.get(name);
        if (entry === undefined) throw corrupt(`it has no entry ${JSON.stringify(name)}`);
        return asCorrupt(readEntry(zip, entry));
      },
      close: () => zip.close(),
    };
  } catch (error) {
    zip.close();
    throw error;
  }
}

async function readEntries(zip: ZipFile): Promise<Map<string, Entry>> {
  if (zip.entryCount > MAX_ENTRIES) throw corrupt(`it has ${zip.entryCount} entries; the limit is ${MAX_ENTRIES}`);
  const entries = new Map<string, Entry>();
  let total = 0;
  for await (const entry of zip.eachEntry()) {
    const name = JSON.stringify(entry.fileName).slice(0, 120);
    if (entries.has(entry.fileName)) throw corrupt(`it has two entries ${name}`);
    if (entry.compressionMethod !== 0 || entry.isEncrypted()) {
      throw corrupt(`its entry ${name} is compressed or encrypted; entries are stored as they are`);
    }
    if (entry.compressedSize !== entry.uncompressedSize) throw corrupt(`its entry ${name} has two sizes`);
    total += entry.uncompressedSize;
    if (total > zip.fileSize) throw corrupt(`its entries claim more than the ${zip.fileSize} bytes of the file`);
    entries.set(entry.fileName, entry);
  }
  return entries;
}

async function readEntry(zip: ZipFile, entry: Entry): Promise<Uint8Array> {
  // Not more than the file's own bytes: checked when it was opened.
  const bytes = new Uint8Array(entry.uncompressedSize);
  let filled = 0;
  let checksum = 0;
  for await (const chunk of (await zip.openReadStreamPromise(entry)) as AsyncIterable<Uint8Array>) {
    if (filled + chunk.length > bytes.length) throw corrupt(`its entry ${JSON.stringify(entry.fileName)} is longer`);
    bytes.set(chunk, filled);
    filled += chunk.length;
    checksum = crc32(chunk, checksum);
  }
  if (filled !== bytes.length || checksum !== entry.crc32) {
    throw corrupt(`its entry ${JSON.stringify(entry.fileName).slice(0, 120)} is damaged: the checksum differs`);
  }
  return bytes;
}

/** One entry to write. */
export interface ZipMember {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/**
 * Writes a zip of stored entries, as a stream: the bytes are views over what was given. The same members give the same
 * file, whatever the time is.
 *
 * @throws OctomilError `invalid_input` for a name that no zip may have (`../x`, `/x`, `a\b`)
 */
export function writeStoredZip(members: Iterable<ZipMember>): AsyncIterable<Uint8Array> {
  const zip = new ZipWriter();
  // 1980-01-01, the first day that a zip can name.
  const options = { compress: false, forceDosTimestamp: true, mtime: new Date(1980, 0, 1) };
  for (const { name, bytes } of members) {
    try {
      zip.addBuffer(asBuffer(bytes), name, options);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new OctomilError('invalid_input', `a zip cannot hold the entry ${JSON.stringify(name)}: ${reason}`, {
        cause,
      });
    }
  }
  zip.end();
  return asWritten(zip.outputStream);
}

/** Chunk by chunk: a stream's own iterator joins what is waiting, and so would copy the weights. */
async function* asWritten(stream: NodeJS.ReadableStream): AsyncGenerator<Uint8Array> {
  const waiting: Uint8Array[] = [];
  let end: { readonly error?: unknown } | undefined;
  let wake = (): void => undefined;
  stream.on('data', (chunk: Uint8Array) => {
    waiting.push(chunk);
    stream.pause();
    wake();
  });
  stream.once('end', () => {
    end = {};
    wake();
  });
  stream.once('error', (error) => {
    end = { error };
    wake();
  });
  for (;;) {
    const next = waiting.shift();
    if (next !== undefined) {
      yield next;
      stream.resume();
    } else if (end === undefined) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    } else if ('error' in end) throw end.error;
    else return;
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Errors of the file system keep their code; everything else is what the zip's own bytes made of it. */
async function asCorrupt<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof OctomilError) throw error;
    const code = (error as { code?: unknown }).code;
    if (typeof code === 'string' && /^E[A-Z]+$/.test(code)) throw toOctomilError(error);
    throw corrupt(error instanceof Error ? error.message : String(error), error);
  }
}

function corrupt(reason: string, cause?: unknown): OctomilError {
  return new OctomilError('corrupt_file', `not a usable zip file: ${reason}`, cause === undefined ? {} : { cause });
}
