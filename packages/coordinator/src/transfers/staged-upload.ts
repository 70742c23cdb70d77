import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { appendFile, type FileHandle, open, rm } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { type PartLayout, partRange } from './part-layout.js';
import { PartSink } from './part-sink.js';
import { readReceivedParts, uploadPaths } from './received-parts.js';

const HASH_READ_BYTES = 1024 * 1024;

/**
 * The bytes of one upload on this machine: a file of the upload's full size, each part written at its place, and
 * beside it a list of the parts that arrived whole, written after their bytes. What is not on the list is sent again.
 *
 * The digest is taken as the bytes arrive where parts come in order, and otherwise caught up from the page cache while
 * later parts arrive, so that completing a large upload has next to nothing left to read.
 */
export class StagedUpload {
  readonly layout: PartLayout;
  readonly dataPath: string;
  readonly #partsPath: string;
  readonly #received: Set<number>;
  readonly #sinks = new Map<number, PartSink>();
  #hash: Hash = createHash('sha256');
  #hashedBytes = 0;
  #catchingUp: Promise<void> | undefined;
  #sealed = false;

  private constructor(folder: string, ticketId: string, layout: PartLayout, received: Set<number>) {
    this.layout = layout;
    const { dataPath, partsPath } = uploadPaths(folder, ticketId);
    this.dataPath = dataPath;
    this.#partsPath = partsPath;
    this.#received = received;
  }

  /** Finds what an earlier process received under this ticket. */
  static async load(folder: string, ticketId: string, layout: PartLayout): Promise<StagedUpload> {
    const received = await readReceivedParts(folder, ticketId, layout);
    // The list of bytes that are gone must not be taken for one of those that come.
    if (received.size === 0) await rm(uploadPaths(folder, ticketId).partsPath, { force: true });
    return new StagedUpload(folder, ticketId, layout, received);
  }

  get received(): number[] {
    return [...this.#received].sort((a, b) => a - b);
  }

  get receivedBytes(): number {
    let bytes = 0;
    for (const index of this.#received) {
      const { start, end } = partRange(this.layout, index);
      bytes += end - start;
    }
    return bytes;
  }

  get idle(): boolean {
    return this.#sinks.size === 0 && this.#catchingUp === undefined && !this.#sealed;
  }

  /**
   * Opens part `index` for writing; `undefined` when it has arrived already. A writer that still has this part is cut
   * off: the agent has given up on that connection.
   *
   * @throws `wrong_state` while the upload is being completed, `invalid_input` for a part that does not exist
   */
  async beginPart(index: number): Promise<PartSink | undefined> {
    const { start, end } = partRange(this.layout, index);
    for (let other = this.#sinks.get(index); other !== undefined; other = this.#sinks.get(index)) {
      await other.abort(new OctomilError('superseded', `part ${index} is being sent again over another connection`));
    }
    if (this.#sealed) throw new OctomilError('wrong_state', 'this upload is being completed and takes no more parts');
    if (this.#received.has(index)) return undefined;
    const hash = start === this.#hashedBytes ? this.#hash.copy() : undefined;
    const sink = new PartSink({
      index,
      start,
      end,
      hash,
      // Bytes of a part may arrive before or after other parts: the file is opened at its full size.
      openFile: async () => {
        const file = await open(this.dataPath, constants.O_RDWR | constants.O_CREAT, 0o600);
        await file.truncate(this.layout.sizeBytes);
        return file;
      },
      onWhole: () => this.#onWhole(index, end, hash),
      onClosed: () => {
        if (this.#sinks.get(index) === sink) this.#sinks.delete(index);
      },
    });
    this.#sinks.set(index, sink);
    return sink;
  }

  async #onWhole(index: number, end: number, hash: Hash | undefined): Promise<void> {
    await appendFile(this.#partsPath, `${index}\n`, { mode: 0o600 });
    this.#received.add(index);
    if (hash !== undefined) {
      this.#hash = hash;
      this.#hashedBytes = end;
    }
    // Its failure shows again when the upload is completed.
    this.#catchUp().catch(() => undefined);
  }

  /** Hashes parts that arrived ahead of their turn, as far as there is no gap. */
  #catchUp(): Promise<void> {
    this.#catchingUp ??= this.#readAhead().finally(() => {
      this.#catchingUp = undefined;
    });
    return this.#catchingUp;
  }

  async #readAhead(): Promise<void> {
    let file: FileHandle | undefined;
    try {
      let buffer: Buffer | undefined;
      const { sizeBytes, partSizeBytes } = this.layout;
      while (this.#hashedBytes < sizeBytes && this.#received.has(Math.floor(this.#hashedBytes / partSizeBytes))) {
        file ??= await open(this.dataPath, 'r');
        buffer ??= Buffer.allocUnsafeSlow(HASH_READ_BYTES);
        const { end } = partRange(this.layout, Math.floor(this.#hashedBytes / partSizeBytes));
        const wanted = Math.min(HASH_READ_BYTES, end - this.#hashedBytes);
        const { bytesRead } = await file.read(buffer, 0, wanted, this.#hashedBytes);
        if (bytesRead === 0) {
          throw new OctomilError(
            'transfer_incomplete',
            `the staged file ends at ${this.#hashedBytes} bytes: send its parts again`,
          );
        }
        this.#hash.update(buffer.subarray(0, bytesRead));
        this.#hashedBytes += bytesRead;
      }
    } finally {
      await file?.close();
    }
  }

  /**
   * Closes the upload to further parts and answers the digest of its bytes. `unseal` opens it again.
   *
   * @throws `transfer_incomplete` naming the missing parts
   */
  async seal(): Promise<{ path: string; sha256: string }> {
    this.#sealed = true;
    try {
      for (const sink of [...this.#sinks.values()]) {
        await sink.abort(new OctomilError('wrong_state', 'the upload was completed while this part was on its way'));
      }
      const missing: number[] = [];
      for (let index = 0; index < this.layout.partCount; index++) if (!this.#received.has(index)) missing.push(index);
      if (missing.length > 0) {
        throw new OctomilError(
          'transfer_incomplete',
          `${missing.length} of ${this.layout.partCount} parts are missing: ${missing.slice(0, 20).join(', ')}${missing.length > 20 ? ' …' : ''}; send them and complete again`,
          { details: { missingParts: missing.slice(0, 1000) } },
        );
      }
      while (this.#hashedBytes < this.layout.sizeBytes) await this.#catchUp();
      return { path: this.dataPath, sha256: this.#hash.copy().digest('hex') };
    } catch (error) {
      this.#sealed = false;
      throw error;
    }
  }

  unseal(): void {
    this.#sealed = false;
  }

  /** Forgets every part, for bytes that proved wrong. */
  async reset(): Promise<void> {
    await this.remove();
    this.#received.clear();
    this.#hash = createHash('sha256');
    this.#hashedBytes = 0;
    this.#sealed = false;
  }

  /** Deletes the files. Safe to repeat, and when the data file was moved away. */
  async remove(): Promise<void> {
    for (const sink of [...this.#sinks.values()]) {
      await sink.abort(new OctomilError('ticket_expired', 'the upload was given up: ask for a new ticket'));
    }
    await this.#catchingUp?.catch(() => undefined);
    // The list first: a crash in between must not leave parts on record whose bytes are gone.
    await rm(this.#partsPath, { force: true });
    await rm(this.dataPath, { force: true });
  }
}
