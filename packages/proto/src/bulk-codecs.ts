import { create, fromBinary, type Message, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import {
  type Chunk,
  type DownloadModelResponse,
  DownloadModelResponseSchema,
  type UploadUpdateRequest,
  UploadUpdateRequestSchema,
} from './gen/octomil/v1/agent_pb.js';
import type { MessageCodec } from './service-definition.js';

// Field tags: (field number << 3) | wire type; 0 = varint, 2 = length-delimited.
const OFFSET_TAG = 0x08;
const DATA_TAG = 0x12;
const CHUNK_TAG = 0x12;

function varintLength(value: number): number {
  let length = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 128)) length++;
  return length;
}

function putVarint(target: Buffer, position: number, value: number): number {
  let at = position;
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 128)) target[at++] = (rest % 128) | 0x80;
  target[at++] = rest;
  return at;
}

/** Bytes of `{ uint64 offset = 1; bytes data = 2; }`, without its data. */
function chunkHeadLength(offset: number, dataLength: number): number {
  return (offset === 0 ? 0 : 1 + varintLength(offset)) + 1 + varintLength(dataLength);
}

function putChunk(target: Buffer, position: number, offset: number, data: Uint8Array): void {
  let at = position;
  if (offset !== 0) {
    target[at++] = OFFSET_TAG;
    at = putVarint(target, at, offset);
  }
  target[at++] = DATA_TAG;
  at = putVarint(target, at, data.length);
  target.set(data, at);
}

function serializeChunk(offset: number, data: Uint8Array): Buffer {
  const out = Buffer.allocUnsafeSlow(chunkHeadLength(offset, data.length) + data.length);
  putChunk(out, 0, offset, data);
  return out;
}

function serializeUploadChunk(chunk: Chunk): Buffer {
  const offset = Number(chunk.offset);
  const inner = chunkHeadLength(offset, chunk.data.length) + chunk.data.length;
  const start = 1 + varintLength(inner);
  const out = Buffer.allocUnsafeSlow(start + inner);
  out[0] = CHUNK_TAG;
  putVarint(out, 1, inner);
  putChunk(out, start, offset, chunk.data);
  return out;
}

function generalBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Codecs for the messages that carry bulk bytes: one copy on the way out where the general writer makes two or more.
 * The wire bytes are the same. Decoding needs no codec of its own: a bytes field is a view already.
 */
export const BULK_CODECS: ReadonlyMap<string, MessageCodec> = new Map<string, MessageCodec>([
  [
    DownloadModelResponseSchema.typeName,
    {
      serialize: (message: Message) => {
        const { offset, data } = message as DownloadModelResponse;
        return serializeChunk(Number(offset), data);
      },
      deserialize: (bytes) => fromBinary(DownloadModelResponseSchema, bytes, { readUnknownFields: false }),
    },
  ],
  [
    UploadUpdateRequestSchema.typeName,
    {
      serialize: (message: Message) => {
        const request = message as UploadUpdateRequest;
        if (request.content.case === 'chunk') return serializeUploadChunk(request.content.value);
        const whole = create(UploadUpdateRequestSchema, message as MessageInitShape<typeof UploadUpdateRequestSchema>);
        return generalBuffer(toBinary(UploadUpdateRequestSchema, whole));
      },
      deserialize: (bytes) => fromBinary(UploadUpdateRequestSchema, bytes, { readUnknownFields: false }),
    },
  ],
]);
