/** Values of a header, by their GGUF type. */
export type GgufValue =
  | { readonly type: 'uint32'; readonly value: number }
  | { readonly type: 'float32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'float32s'; readonly value: readonly number[] }
  | { readonly type: 'int32s'; readonly value: readonly number[] };

export interface GgufTensor {
  readonly name: string;
  /** The fastest dimension first: a matrix of `[inputs, outputs]`. */
  readonly shape: readonly number[];
  readonly values: Float32Array;
  readonly precision: 'f32' | 'f16';
}

const TYPE = { int32: 5, uint32: 4, float32: 6, bool: 7, string: 8, array: 9 } as const;
const ALIGNMENT_BYTES = 32;

/** A GGUF file of version 3, little-endian (ggml, docs/gguf.md). */
export function encodeGguf(metadata: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensor[]): Uint8Array {
  const data = tensors.map(({ values, precision }) => (precision === 'f32' ? bytesOf(values) : halfFloats(values)));
  const header = [Buffer.from('GGUF'), uint32(3), uint64(tensors.length), uint64(metadata.size)];
  for (const [key, value] of metadata) header.push(text(key), encodeValue(value));
  let offset = 0;
  tensors.forEach(({ name, shape, precision }, index) => {
    header.push(text(name), uint32(shape.length), ...shape.map(uint64), uint32(precision === 'f32' ? 0 : 1));
    header.push(uint64(offset));
    offset += aligned(data[index]?.length ?? 0);
  });
  const head = Buffer.concat(header);
  return Buffer.concat([head, padding(head.length), ...data.flatMap((bytes) => [bytes, padding(bytes.length)])]);
}

function encodeValue(given: GgufValue): Buffer {
  switch (given.type) {
    case 'uint32':
      return Buffer.concat([uint32(TYPE.uint32), uint32(given.value)]);
    case 'float32':
      return Buffer.concat([uint32(TYPE.float32), float32(given.value)]);
    case 'bool':
      return Buffer.concat([uint32(TYPE.bool), Buffer.from([given.value ? 1 : 0])]);
    case 'string':
      return Buffer.concat([uint32(TYPE.string), text(given.value)]);
    case 'strings':
      return array(TYPE.string, given.value.map(text));
    case 'float32s':
      return array(TYPE.float32, given.value.map(float32));
    case 'int32s':
      return array(TYPE.int32, given.value.map(int32));
  }
}

function array(type: number, items: readonly Buffer[]): Buffer {
  return Buffer.concat([uint32(TYPE.array), uint32(type), uint64(items.length), ...items]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}

function float32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8');
  return Buffer.concat([uint64(bytes.length), bytes]);
}

function bytesOf(values: Float32Array): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}

function halfFloats(values: Float32Array): Buffer {
  const halves = new Uint16Array(values.length);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let index = 0; index < values.length; index += 1) halves[index] = halfOf(bits[index] ?? 0);
  return Buffer.from(halves.buffer);
}

/** The nearest half float to a float's bits; what is too small for a normal one becomes zero. */
function halfOf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  // Rounds the mantissa to ten bits; a carry runs on into the exponent, which is right.
  const rounded = (bits & 0x7fffffff) + 0x1000;
  const exponent = (rounded >>> 23) - 112;
  if (exponent <= 0) return sign;
  if (exponent >= 31) return sign | 0x7c00;
  return sign | (exponent << 10) | ((rounded >>> 13) & 0x3ff);
}

function aligned(length: number): number {
  return Math.ceil(length / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
}

function padding(length: number): Buffer {
  return Buffer.alloc(aligned(length) - length);
}
