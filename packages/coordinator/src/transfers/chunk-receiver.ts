import { OctomilError } from '@octomil/shared/errors';
import { partRange } from './part-layout.js';
import type { PartSink } from './part-sink.js';
import type { StagedUpload } from './staged-upload.js';

/** Writes a stream of chunks to the parts they fall into; for senders that may use only one connection. */
export class ChunkReceiver {
  readonly #upload: StagedUpload;
  readonly #onBytes: () => void;
  #sink: PartSink | undefined;
  /** Where the next chunk begins, once the first one came. */
  #position: number | undefined;

  constructor(upload: StagedUpload, onBytes: () => void) {
    this.#upload = upload;
    this.#onBytes = onBytes;
  }

  /** Whether every part has arrived. */
  get whole(): boolean {
    return this.#upload.receivedBytes === this.#upload.layout.sizeBytes;
  }

  /** Bytes of whole parts. */
  get receivedBytes(): number {
    return this.#upload.receivedBytes;
  }

  /**
   * Takes a chunk that continues the last one, or begins at a part's start. It may reach over several parts. Bytes of
   * parts that have arrived before are passed over.
   *
   * @throws `invalid_input` for another offset, `too_large` beyond the upload's end
   */
  async write(offset: number, data: Uint8Array): Promise<void> {
    const { sizeBytes, partSizeBytes } = this.#upload.layout;
    if (offset + data.length > sizeBytes) {
      throw new OctomilError(
        'too_large',
        `a chunk at ${offset} of ${data.length} bytes reaches beyond the ${sizeBytes} bytes of this upload`,
        {
          details: { limitBytes: sizeBytes },
        },
      );
    }
    if (offset !== this.#position && offset % partSizeBytes !== 0) {
      throw new OctomilError(
        'invalid_input',
        `a chunk at offset ${offset} neither continues the stream${this.#position === undefined ? '' : ` at ${this.#position}`} nor begins a part (multiples of ${partSizeBytes})`,
      );
    }
    if (offset !== this.#position) await this.#drop();
    let position = offset;
    for (let rest = data; rest.length > 0; ) {
      const index = Math.floor(position / partSizeBytes);
      const { start, end } = partRange(this.#upload.layout, index);
      if (position === start) this.#sink = await this.#upload.beginPart(index);
      const piece = rest.subarray(0, end - position);
      await this.#sink?.write(piece);
      position += piece.length;
      rest = rest.subarray(piece.length);
      if (position === end) {
        await this.#sink?.commit();
        this.#sink = undefined;
      }
    }
    this.#position = position;
    this.#onBytes();
  }

  async #drop(): Promise<void> {
    await this.#sink?.abort(
      new OctomilError('transfer_incomplete', 'the stream left this part unfinished; send it again'),
    );
    this.#sink = undefined;
  }

  /** Ends the stream; a part that is not whole is dropped. Safe to repeat. */
  async end(): Promise<void> {
    await this.#drop();
    this.#position = undefined;
  }
}
