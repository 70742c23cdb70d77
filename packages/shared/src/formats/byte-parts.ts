/**
 * A file that is not there yet: its length is known, its bytes are made part by part when they are read, so that large
 * weights lie in memory once and not once more per format.
 */
export interface ByteParts {
  readonly sizeBytes: number;
  /** Begins anew with every call. Parts may be views over the weights: use them before these change. */
  parts(): Iterable<Uint8Array>;
}

/** The whole file in memory. */
export function joinParts(file: ByteParts): Uint8Array {
  const out = new Uint8Array(file.sizeBytes);
  let position = 0;
  for (const part of file.parts()) {
    out.set(part, position);
    position += part.length;
  }
  return out;
}

/** The bytes of an array of numbers, without a copy. Little-endian, as every machine that Node runs on. */
export function bytesOf(data: ArrayBufferView): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
