import { createHash, type Hash, randomUUID } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import type { ParameterLayout } from '@octomil/shared/tensors';
import { weightsFileBytes } from '@octomil/shared/tensors';
import type { WrittenFile } from './aggregation-job.js';

const REREAD_BYTES = 1024 * 1024;

/**
 * Writes a weights file range by range beside its place and moves it there when it is whole.
 *
 * Nothing is flushed to the disk here: whoever stores the file for good does that.
 */
export class WeightsSink {
  readonly #path: string;
  readonly #partialPath: string;
  readonly #layout: ParameterLayout;
  readonly #handle: FileHandle;
  readonly #hash: Hash = createHash('sha256');
  #hashedBytes: number;

  private constructor(path: string, partialPath: string, layout: ParameterLayout, handle: FileHandle) {
    this.#path = path;
    this.#partialPath = partialPath;
    this.#layout = layout;
    this.#handle = handle;
    this.#hash.update(layout.headerBytes);
    this.#hashedBytes = layout.headerBytes.length;
  }

  static async create(path: string, layout: ParameterLayout): Promise<WeightsSink> {
    const partialPath = `${path}.${randomUUID()}.partial`;
    const handle = await open(partialPath, 'wx+');
    const sink = new WeightsSink(path, partialPath, layout, handle);
    try {
      await writeAll(handle, layout.headerBytes, 0);
    } catch (error) {
      await sink.discard();
      throw error;
    }
    return sink;
  }

  /** The buffer is free again when the answer resolves. Ranges in file order are hashed on the way. */
  async write(start: number, values: Float32Array): Promise<void> {
    const position = this.#layout.headerBytes.length + start * 4;
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const written = writeAll(this.#handle, bytes, position);
    if (position === this.#hashedBytes) {
      this.#hash.update(bytes);
      this.#hashedBytes += bytes.length;
    }
    await written;
  }

  /** Hashes what was not written in order, closes the file and moves it to its place. */
  async finish(): Promise<WrittenFile> {
    const sizeBytes = weightsFileBytes(this.#layout);
    const buffer = new Uint8Array(Math.min(REREAD_BYTES, sizeBytes - this.#hashedBytes));
    while (this.#hashedBytes < sizeBytes) {
      const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, this.#hashedBytes);
      if (bytesRead === 0) break;
      this.#hash.update(buffer.subarray(0, bytesRead));
      this.#hashedBytes += bytesRead;
    }
    await this.#handle.close();
    await rename(this.#partialPath, this.#path);
    return { path: this.#path, sha256: this.#hash.digest('hex'), sizeBytes };
  }

  /** Removes what was written. Safe after `finish`, which it does not undo. */
  async discard(): Promise<void> {
    await this.#handle.close().catch(() => undefined);
    await rm(this.#partialPath, { force: true });
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, written, bytes.length - written, position + written);
    written += bytesWritten;
  }
}
