import type { Hash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { noteNetworkGarbage } from '@octomil/shared/runtime';

export interface PartSinkOptions {
  readonly index: number;
  /** First byte's place in the file, and the place after the last. */
  readonly start: number;
  readonly end: number;
  /** Takes the bytes as they come, when this part is the next one to be hashed. */
  readonly hash: Hash | undefined;
  readonly openFile: () => Promise<FileHandle>;
  /** Called once all bytes are written, before the part counts as received. */
  readonly onWhole: () => Promise<void>;
  readonly onClosed: () => void;
}

/** Small network reads share a system call. No more, because every upload under way holds as much. */
const GATHER_BYTES = 64 * 1024;

/** Writes one part to its place in the file. Nothing counts until `commit`. */
export class PartSink {
  readonly #options: PartSinkOptions;
  #file: Promise<FileHandle> | undefined;
  #gathered: Uint8Array[] = [];
  #gatheredBytes = 0;
  #writtenTo: number;
  #busy: Promise<void> = Promise.resolve();
  #failure: OctomilError | undefined;
  #committing: Promise<void> | undefined;
  #closed = false;

  constructor(options: PartSinkOptions) {
    this.#options = options;
    this.#writtenTo = options.start;
  }

  get index(): number {
    return this.#options.index;
  }

  /** Where the next byte goes. */
  get position(): number {
    return this.#writtenTo + this.#gatheredBytes;
  }

  get remainingBytes(): number {
    return this.#options.end - this.position;
  }

  /**
   * Takes the next bytes, which must not change afterwards. Await it before the next call: that is the back pressure.
   *
   * @throws `too_large` beyond the part's end, naming the limit; what ended this part early
   */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (bytes.length > this.remainingBytes) {
      const { index, start, end } = this.#options;
      throw new OctomilError(
        'too_large',
        `part ${index} has exactly ${end - start} bytes, and more arrived; what came after them was not read`,
        { details: { partIndex: index, limitBytes: end - start } },
      );
    }
    this.#options.hash?.update(bytes);
    noteNetworkGarbage(bytes.length);
    this.#gathered.push(bytes);
    this.#gatheredBytes += bytes.length;
    if (this.#gatheredBytes >= GATHER_BYTES) await this.#flush();
  }

  #flush(): Promise<void> {
    const buffers = this.#gathered;
    this.#gathered = [];
    const position = this.#writtenTo;
    this.#writtenTo += this.#gatheredBytes;
    this.#gatheredBytes = 0;
    this.#busy = this.#busy.then(() => this.#writeAt(buffers, position));
    return this.#busy;
  }

  async #writeAt(buffers: Uint8Array[], position: number): Promise<void> {
    this.#file ??= this.#options.openFile();
    const file = await this.#file;
    const wanted = buffers.reduce((sum, { length }) => sum + length, 0);
    let { bytesWritten } = await file.writev(buffers, position);
    if (bytesWritten === wanted) return;
    // A short write happens on a nearly full disk; the next one then fails and says so.
    const rest = Buffer.concat(buffers).subarray(bytesWritten);
    for (let done = 0; done < rest.length; done += bytesWritten) {
      ({ bytesWritten } = await file.write(rest, done, rest.length - done, position + (wanted - rest.length) + done));
    }
  }

  /** Records the part as received. @throws `transfer_incomplete` when bytes are missing */
  commit(): Promise<void> {
    this.#committing ??= this.#commit();
    return this.#committing;
  }

  async #commit(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const { index, start, end } = this.#options;
    if (this.remainingBytes > 0) {
      throw new OctomilError(
        'transfer_incomplete',
        `part ${index} ended after ${this.position - start} of ${end - start} bytes; send it again`,
        { details: { partIndex: index, receivedBytes: this.position - start, expectedBytes: end - start } },
      );
    }
    await this.#flush();
    if (this.#failure !== undefined) throw this.#failure;
    await this.#options.onWhole();
    await this.#close();
  }

  /**
   * Ends the part; later calls of `write` and `commit` fail with `reason`. A commit under way is let through: once it
   * may have been recorded, nobody may write there again. Safe to repeat.
   */
  async abort(reason: OctomilError): Promise<void> {
    await this.#committing?.catch(() => undefined);
    this.#failure ??= reason;
    await this.#busy.catch(() => undefined);
    await this.#close();
  }

  async #close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#gathered = [];
    const file = await this.#file?.catch(() => undefined);
    await file?.close();
    this.#options.onClosed();
  }
}
