import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { damaged, type Part } from './manifest.js';

/** Writes one part, and resolves when the disk has it. Only its owner may read it: rows hold hashes of credentials. */
export async function writePart(
  root: string,
  file: string,
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<Part> {
  const path = join(root, ...file.split('/'));
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const handle = await open(path, 'wx', 0o600);
  const hash = createHash('sha256');
  let sizeBytes = 0;
  try {
    for await (const chunk of source) {
      hash.update(chunk);
      sizeBytes += chunk.byteLength;
      for (let offset = 0; offset < chunk.byteLength; ) {
        const { bytesWritten } = await handle.write(chunk, offset);
        offset += bytesWritten;
      }
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  return { file, size_bytes: sizeBytes, sha256: hash.digest('hex') };
}

/**
 * The bytes of a part, checked when the last of them was read.
 *
 * @throws OctomilError `corrupt_file` naming the part
 */
export async function* readPart(root: string, { file, size_bytes, sha256 }: Part): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const stream = createReadStream(join(root, ...file.split('/')), { highWaterMark: 256 * 1024 });
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      hash.update(chunk);
      sizeBytes += chunk.byteLength;
      yield chunk;
    }
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    if (typeof code === 'string' && /^E[A-Z]+$/.test(code)) throw damaged(file, `it cannot be read (${code})`, error);
    throw error;
  }
  if (sizeBytes !== size_bytes) throw damaged(file, `it has ${sizeBytes} bytes in place of ${size_bytes}`);
  const found = hash.digest('hex');
  if (found !== sha256) throw damaged(file, `its SHA-256 is ${found} in place of ${sha256}`);
}

/** @throws OctomilError `corrupt_file` naming the part */
export async function checkPart(root: string, part: Part): Promise<void> {
  for await (const _ of readPart(root, part));
}

/**
 * The lines of a part that was checked. Only `\n` ends one: `node:readline` also breaks at U+2028 and U+2029, which JSON
 * leaves as they are in texts.
 */
export async function* readLines(root: string, { file }: Part): AsyncGenerator<string> {
  const input = createReadStream(join(root, ...file.split('/')), { encoding: 'utf8' });
  // In pieces: joining a long line anew at every chunk would take the square of its length.
  let begun: string[] = [];
  for await (const chunk of input as AsyncIterable<string>) {
    let start = 0;
    for (let end = chunk.indexOf('\n'); end >= 0; end = chunk.indexOf('\n', start)) {
      begun.push(chunk.slice(start, end));
      yield begun.join('');
      begun = [];
      start = end + 1;
    }
    if (start < chunk.length) begun.push(chunk.slice(start));
  }
  if (begun.length > 0) yield begun.join('');
}
