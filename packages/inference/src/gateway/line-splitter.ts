import { isUtf8 } from 'node:buffer';
import { OctomilError } from '@octomil/shared/errors';

/** A line of more bytes is no token of a model. */
export const MAX_LINE_BYTES = 1024 * 1024;

const NEWLINE = 0x0a;

/** Cuts the bytes of a stream into lines. What is kept between reads is one unfinished line at most. */
export class LineSplitter {
  #parts: Buffer[] = [];
  #bytes = 0;

  /**
   * The lines that this read completes, without their ends.
   *
   * @throws OctomilError `inference_failed` for bytes that are not UTF-8, and for a line longer than `MAX_LINE_BYTES`
   */
  push(chunk: Buffer): readonly string[] {
    const end = chunk.lastIndexOf(NEWLINE);
    if (end === -1) {
      this.#keep(chunk);
      return [];
    }
    let whole = chunk.subarray(0, end);
    if (this.#bytes > 0) {
      whole = Buffer.concat([...this.#parts, whole]);
      this.#parts = [];
      this.#bytes = 0;
    }
    if (end + 1 < chunk.length) this.#keep(chunk.subarray(end + 1));
    return decode(whole).split('\n');
  }

  /** What came after the last line's end; empty when nothing did. @throws OctomilError `inference_failed` as `push` */
  rest(): string {
    return decode(Buffer.concat(this.#parts));
  }

  #keep(part: Buffer): void {
    this.#bytes += part.length;
    if (this.#bytes > MAX_LINE_BYTES) {
      throw new OctomilError(
        'inference_failed',
        `the backend sent more than ${MAX_LINE_BYTES} bytes without the end of a line`,
        { details: { max_line_bytes: MAX_LINE_BYTES } },
      );
    }
    this.#parts.push(part);
  }
}

function decode(bytes: Buffer): string {
  if (!isUtf8(bytes)) throw new OctomilError('inference_failed', 'the backend sent bytes that are not UTF-8');
  return bytes.toString('utf8');
}
