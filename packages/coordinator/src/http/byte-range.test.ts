import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { parseByteRange } from './byte-range.js';

test('one range of bytes is resolved against the size', () => {
  expect(parseByteRange('bytes=0-', 10)).toEqual({ start: 0, end: 10 });
  expect(parseByteRange('bytes=4-', 10)).toEqual({ start: 4, end: 10 });
  expect(parseByteRange('bytes=4-6', 10)).toEqual({ start: 4, end: 7 });
  expect(parseByteRange('bytes=4-99', 10)).toEqual({ start: 4, end: 10 });
  expect(parseByteRange('bytes=-3', 10)).toEqual({ start: 7, end: 10 });
  expect(parseByteRange('bytes=-30', 10)).toEqual({ start: 0, end: 10 });
});

test('what may be ignored asks for the whole', () => {
  for (const header of [undefined, '', 'bytes=-', 'bytes=6-4', 'bytes=1-2,4-5', 'lines=1-2', 'bytes=a-b']) {
    expect(parseByteRange(header, 10)).toBeUndefined();
  }
});

test('a range beyond the end is refused with the size', () => {
  for (const header of ['bytes=10-', 'bytes=11-12', 'bytes=-0']) {
    expect(() => parseByteRange(header, 10)).toThrow(OctomilError);
  }
});
