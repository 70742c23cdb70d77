import type { FileHandle } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';

/** A value of the header; of an array its length alone. */
export type HeaderValue = string | number | boolean | { readonly length: number };

export interface TensorEntry {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: number;
  readonly offset: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly values: ReadonlyMap<string, HeaderValue>;
  readonly tensors: readonly TensorEntry[];
  /** Where the header ends; the data begin at the next multiple of the alignment. */
  readonly endOffset: number;
}

const MAX_TENSORS = 100_000;
const MAX_VALUES = 100_000;
const MAX_KEY_BYTES = 65_535;
const MAX_TEXT_BYTES = 16 * 2 ** 20;
const MAX_ITEMS = 20_000_000;
const MAX_DIMENSIONS = 4;
const BUFFER_BYTES = 256 * 2 ** 10;

/** Type numbers of the format (ggml, docs/gguf.md) that have a fixed width, with that width in bytes. */
const WIDTHS: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
};
const STRING = 8;
const ARRAY = 9;

/**
 * Reads the header of an open GGUF file. Every count is held against a limit before anything is allocated for it.
 *
 * @throws OctomilError `model_load_failed` for what is no such header, or ends too early
 */
export async function readGgufHeader(file: FileHandle, sizeBytes: number): Promise<GgufHeader> {
  const reader = new HeaderReader(file, sizeBytes);
  if ((await reader.take(4)).toString('latin1') !== 'GGUF') throw broken('it does not begin with GGUF');
  const version = (await reader.take(4)).readUInt32LE();
  if (version !== 2 && version !== 3) throw broken(`its version is ${version}; this program reads 2 and 3`);
  const tensorCount = await reader.count('tensors', MAX_TENSORS);
  const valueCount = await reader.count('values in its header', MAX_VALUES);
  const values = new Map<string, HeaderValue>();
  for (let index = 0; index < valueCount; index += 1) {
    const key = await reader.text(MAX_KEY_BYTES);
    values.set(key, await readValue(reader, await reader.uint32(), key));
  }
  const tensors: TensorEntry[] = [];
  for (let index = 0; index < tensorCount; index += 1) tensors.push(await readTensor(reader));
  return { version, values, tensors, endOffset: reader.offset };
}

async function readValue(reader: HeaderReader, type: number, key: string): Promise<HeaderValue> {
  if (type === STRING) return reader.text(MAX_TEXT_BYTES);
  if (type !== ARRAY) return readNumber(await reader.take(widthOf(type, key)), type);
  const itemType = await reader.uint32();
  const length = await reader.count(`items in ${key}`, MAX_ITEMS);
  if (itemType !== STRING) await reader.skip(length * widthOf(itemType, key));
  else for (let item = 0; item < length; item += 1) await reader.skipText(MAX_TEXT_BYTES);
  return { length };
}

async function readTensor(reader: HeaderReader): Promise<TensorEntry> {
  const name = await reader.text(MAX_KEY_BYTES);
  const dimensions = await reader.uint32();
  if (dimensions > MAX_DIMENSIONS) throw broken(`the tensor ${shown(name)} has ${dimensions} dimensions`);
  const shape: number[] = [];
  for (let index = 0; index < dimensions; index += 1) shape.push(await reader.uint64());
  return { name, shape, type: await reader.uint32(), offset: await reader.uint64() };
}

function widthOf(type: number, key: string): number {
  const width = WIDTHS[type];
  if (width === undefined) throw broken(`${shown(key)} has the type ${type}, which there is none of`);
  return width;
}

function readNumber(bytes: Buffer, type: number): number | boolean {
  switch (type) {
    case 0:
      return bytes.readUInt8();
    case 1:
      return bytes.readInt8();
    case 2:
      return bytes.readUInt16LE();
    case 3:
      return bytes.readInt16LE();
    case 4:
      return bytes.readUInt32LE();
    case 5:
      return bytes.readInt32LE();
    case 6:
      return bytes.readFloatLE();
    case 7:
      return bytes.readUInt8() !== 0;
    case 10:
      return Number(bytes.readBigUInt64LE());
    case 11:
      return Number(bytes.readBigInt64LE());
    default:
      return bytes.readDoubleLE();
  }
}

/** Reads on from the beginning, a buffer at a time. */
class HeaderReader {
  offset = 0;
  readonly #file: FileHandle;
  readonly #sizeBytes: number;
  #buffer: Buffer = Buffer.alloc(0);
  #bufferOffset = 0;

  constructor(file: FileHandle, sizeBytes: number) {
    this.#file = file;
    this.#sizeBytes = sizeBytes;
  }

  async take(length: number): Promise<Buffer> {
    this.#require(length);
    const at = this.offset - this.#bufferOffset;
    if (at >= 0 && at + length <= this.#buffer.length) {
      this.offset += length;
      return this.#buffer.subarray(at, at + length);
    }
    const wanted = Math.min(Math.max(length, BUFFER_BYTES), this.#sizeBytes - this.offset);
    const { buffer, bytesRead } = await this.#file.read(Buffer.alloc(wanted), 0, wanted, this.offset);
    if (bytesRead < length) throw truncated(this.#sizeBytes);
    this.#buffer = buffer.subarray(0, bytesRead);
    this.#bufferOffset = this.offset;
    this.offset += length;
    return this.#buffer.subarray(0, length);
  }

  async uint32(): Promise<number> {
    return (await this.take(4)).readUInt32LE();
  }

  async uint64(): Promise<number> {
    const value = (await this.take(8)).readBigUInt64LE();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw broken(`it holds the number ${value}, which is beyond any use`);
    return Number(value);
  }

  async count(what: string, limit: number): Promise<number> {
    const value = await this.uint64();
    if (value > limit) throw broken(`it says to have ${value} ${what}; at most ${limit} are read`);
    return value;
  }

  async text(maxBytes: number): Promise<string> {
    const length = await this.count('bytes in a text', maxBytes);
    return (await this.take(length)).toString('utf8');
  }

  async skipText(maxBytes: number): Promise<void> {
    await this.skip(await this.count('bytes in a text', maxBytes));
  }

  async skip(length: number): Promise<void> {
    this.#require(length);
    this.offset += length;
  }

  #require(length: number): void {
    if (this.offset + length > this.#sizeBytes) throw truncated(this.#sizeBytes);
  }
}

function truncated(sizeBytes: number): OctomilError {
  return broken(`it ends within its header, after ${sizeBytes} bytes; it was cut short`);
}

function shown(name: string): string {
  return JSON.stringify(name.slice(0, 80));
}

export function broken(why: string): OctomilError {
  return new OctomilError('model_load_failed', `the model file cannot be loaded: ${why}`);
}
