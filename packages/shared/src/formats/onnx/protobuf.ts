import type { ByteParts } from '../byte-parts.js';

/** A part of a message: bytes that are there, or bytes that are made when they are written. */
type Part = Uint8Array | ByteParts;

/**
 * Writes protobuf messages (protobuf.dev, "Encoding") part by part: lengths are known before large fields are made, so
 * that weights need not be copied to be wrapped.
 */
export class ProtobufMessage implements ByteParts {
  readonly #parts: Part[] = [];
  #sizeBytes = 0;

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  *parts(): Iterable<Uint8Array> {
    for (const part of this.#parts) {
      if (part instanceof Uint8Array) yield part;
      else yield* part.parts();
    }
  }

  /** An int32, int64 or enum field. Negative numbers take ten bytes, as the encoding has it. */
  int(field: number, value: number): this {
    return this.#raw(varint(field * 8)).#raw(varint(value));
  }

  float(field: number, value: number): this {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    return this.#raw(varint(field * 8 + 5)).#raw(bytes);
  }

  text(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value));
  }

  bytes(field: number, value: Uint8Array): this {
    return this.#raw(varint(field * 8 + 2))
      .#raw(varint(value.length))
      .#raw(value);
  }

  /** A message, or bytes that are made later. */
  message(field: number, value: ByteParts): this {
    this.#raw(varint(field * 8 + 2)).#raw(varint(value.sizeBytes));
    this.#parts.push(value);
    this.#sizeBytes += value.sizeBytes;
    return this;
  }

  #raw(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    this.#sizeBytes += bytes.length;
    return this;
  }
}

function varint(value: number): Uint8Array {
  const out: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  while (rest > 127n) {
    out.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  out.push(Number(rest));
  return Uint8Array.from(out);
}
