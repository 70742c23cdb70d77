import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { UploadTicketSchema } from '@octomil/proto';
import { missingParts } from './upload.js';

const partsOf = (partSizeBytes: bigint, partCount: number, sizeBytes = 250, receivedParts: number[] = []) =>
  missingParts({ ticket: create(UploadTicketSchema, { partSizeBytes, partCount, receivedParts }), sizeBytes });

test('the parts that are not received, the last one with the rest', () => {
  expect(partsOf(100n, 3, 250, [1])).toEqual([
    { number: 0, offset: 0, length: 100 },
    { number: 2, offset: 200, length: 50 },
  ]);
});

test.each([
  ['a part size of zero', 0n, 3],
  ['a negative part size', -100n, 3],
  ['too few parts, so that the update would end early', 100n, 2],
  ['more parts than the update has bytes for', 100n, 4],
  ['parts without number', 1n, 4_294_967_295],
])('a ticket with %s is not used', (_what, partSizeBytes, partCount) => {
  expect(() => partsOf(partSizeBytes, partCount)).toThrow(expect.objectContaining({ code: 'weight_upload_failed' }));
});
