import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { BULK_CODECS, ChunkSchema, DownloadModelResponseSchema, UploadUpdateRequestSchema } from './index.js';

const OFFSETS = [0n, 1n, 127n, 128n, 16_384n, 2n ** 31n, 2n ** 40n + 5n];
const LENGTHS = [1, 127, 128, 300, 70_000];

test('a download chunk has the very bytes of the general writer', () => {
  const codec = BULK_CODECS.get(DownloadModelResponseSchema.typeName);
  for (const offset of OFFSETS) {
    for (const length of LENGTHS) {
      const message = create(DownloadModelResponseSchema, { offset, data: new Uint8Array(length).fill(7) });
      const bytes = codec?.serialize(message);
      expect(bytes?.equals(toBinary(DownloadModelResponseSchema, message))).toBe(true);
    }
  }
});

test('an upload chunk has the very bytes of the general writer, and so has the header', () => {
  const codec = BULK_CODECS.get(UploadUpdateRequestSchema.typeName);
  for (const offset of OFFSETS) {
    for (const length of LENGTHS) {
      const chunk = create(ChunkSchema, { offset, data: new Uint8Array(length).fill(9) });
      const message = create(UploadUpdateRequestSchema, { content: { case: 'chunk', value: chunk } });
      expect(codec?.serialize(message).equals(toBinary(UploadUpdateRequestSchema, message))).toBe(true);
    }
  }
  const header = create(UploadUpdateRequestSchema, {
    content: { case: 'header', value: { ticketId: 't', token: 'secret' } },
  });
  expect(codec?.serialize(header).equals(toBinary(UploadUpdateRequestSchema, header))).toBe(true);
});

test('an empty chunk survives the trip', () => {
  const codec = BULK_CODECS.get(DownloadModelResponseSchema.typeName);
  const bytes = codec?.serialize(create(DownloadModelResponseSchema, { offset: 5n })) ?? Buffer.alloc(0);
  const back = fromBinary(DownloadModelResponseSchema, bytes);
  expect([back.offset, back.data.length]).toEqual([5n, 0]);
});
