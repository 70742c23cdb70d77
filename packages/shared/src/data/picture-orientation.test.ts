import { crc32 } from 'node:zlib';
import { expect, test } from '@jest/globals';
import jpeg from 'jpeg-js';
import { PNG } from 'pngjs';
import { readImageHeader } from './image-header.js';
import { decodeImage } from './images.js';

const SEEN = ['abc', 'def'] as const;

/** How the picture `SEEN` lies in a file of each orientation: EXIF 2.32, table 6, drawn by hand. */
const STORED: readonly (readonly [number, readonly string[]])[] = [
  [1, ['abc', 'def']],
  [2, ['cba', 'fed']],
  [3, ['fed', 'cba']],
  [4, ['def', 'abc']],
  [5, ['ad', 'be', 'cf']],
  [6, ['cf', 'be', 'ad']],
  [7, ['fc', 'eb', 'da']],
  [8, ['da', 'eb', 'fc']],
];

/** A block of EXIF whose first directory has another entry, then the orientation. */
function exifOf(orientation: number, order: 'II' | 'MM' = 'MM', type = 3): Buffer {
  const exif = Buffer.alloc(8 + 2 + 24 + 4);
  const short = (value: number, at: number) =>
    order === 'II' ? exif.writeUInt16LE(value, at) : exif.writeUInt16BE(value, at);
  const long = (value: number, at: number) =>
    order === 'II' ? exif.writeUInt32LE(value, at) : exif.writeUInt32BE(value, at);
  exif.write(order, 'latin1');
  short(42, 2);
  long(8, 4);
  short(2, 8);
  for (const [at, tag, value] of [
    [10, 0x0100, 6],
    [22, 0x0112, orientation],
  ] as const) {
    short(tag, at);
    short(type, at + 2);
    long(1, at + 4);
    short(value, at + 8);
  }
  return exif;
}

/** Each letter is a grey; opacity is kept apart to see that it moves along. */
function pngOf(rows: readonly string[], exif: Buffer): Buffer {
  const png = new PNG({ width: rows[0]?.length ?? 0, height: rows.length });
  for (const [at, letter] of [...rows.join('')].entries()) {
    const level = letter.charCodeAt(0);
    png.data.set([level, level + 1, level + 2, level + 3], at * 4);
  }
  const bytes = PNG.sync.write(png);
  const afterHeader = 8 + 25;
  const chunk = Buffer.concat([Buffer.alloc(4), Buffer.from('eXIf'), exif, Buffer.alloc(4)]);
  chunk.writeUInt32BE(exif.length, 0);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, -4)), chunk.length - 4);
  return Buffer.concat([bytes.subarray(0, afterHeader), chunk, bytes.subarray(afterHeader)]);
}

function segment(content: Buffer): Buffer {
  const head = Buffer.from([0xff, 0xe1, 0, 0]);
  head.writeUInt16BE(content.length + 2, 2);
  return Buffer.concat([head, content]);
}

const exifSegment = (exif: Buffer): Buffer => segment(Buffer.concat([Buffer.from('Exif\0\0', 'latin1'), exif]));

/** Each letter is an 8 × 8 block, so that compression leaves it alone. */
function jpegOf(rows: readonly string[], ...segments: readonly Buffer[]): Buffer {
  const [width, height] = [(rows[0]?.length ?? 0) * 8, rows.length * 8];
  const data = Buffer.alloc(width * height * 4, 255);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const level = greyOf(rows[y >> 3]?.charAt(x >> 3) ?? '');
      data.fill(level, (y * width + x) * 4, (y * width + x) * 4 + 3);
    }
  }
  const plain = jpeg.encode({ width, height, data }, 100).data;
  return Buffer.concat([plain.subarray(0, 2), ...segments, plain.subarray(2)]);
}

const greyOf = (letter: string): number => (letter.charCodeAt(0) - 96) * 36;
const letterOf = (grey: number): string => String.fromCharCode(96 + Math.round(grey / 36));

async function lettersOfPng(bytes: Buffer): Promise<string[]> {
  const { width, height, rgba } = await decodeImage(bytes);
  return Array.from({ length: height }, (_, row) =>
    Array.from({ length: width }, (__, column) => {
      const [red = 0, green, blue, opacity] = rgba.subarray((row * width + column) * 4);
      expect([green, blue, opacity]).toEqual([red + 1, red + 2, red + 3]);
      return String.fromCharCode(red);
    }).join(''),
  );
}

async function lettersOfJpeg(bytes: Buffer): Promise<string[]> {
  const { width, height, rgba } = await decodeImage(bytes);
  return Array.from({ length: height / 8 }, (_, row) =>
    Array.from({ length: width / 8 }, (__, column) =>
      letterOf(rgba[((row * 8 + 4) * width + column * 8 + 4) * 4] ?? 0),
    ).join(''),
  );
}

test.each(STORED)('orientation %i lies as it is meant to be seen', async (orientation, rows) => {
  for (const order of ['II', 'MM'] as const) {
    const exif = exifOf(orientation, order);
    expect(await lettersOfPng(pngOf(rows, exif))).toEqual(SEEN);
    expect(await lettersOfJpeg(jpegOf(rows, exifSegment(exif)))).toEqual(SEEN);
  }
});

test('the first EXIF counts, whatever else has its marker', async () => {
  const xmp = segment(Buffer.from('http://ns.adobe.com/xap/1.0/\0<x/>', 'latin1'));
  const [, rows] = STORED[5] ?? [6, []];
  expect(await lettersOfJpeg(jpegOf(rows, xmp, exifSegment(exifOf(6)), exifSegment(exifOf(3))))).toEqual(SEEN);
});

const whole = exifOf(6);
const patched = (at: number, ...bytes: readonly number[]): Buffer => {
  const exif = Buffer.from(whole);
  exif.set(bytes, at);
  return exif;
};

test.each([
  ['no orientation', patched(22, 1, 1)],
  ['orientation 0', exifOf(0)],
  ['orientation 9', exifOf(9)],
  ['an orientation that is no short number', exifOf(6, 'MM', 4)],
  ['another order of bytes', patched(0, 0x49, 0x4d)],
  ['another number than TIFF', patched(2, 0, 43)],
  ['a directory outside of it', patched(4, 0xff, 0xff, 0xff, 0xff)],
  ['a directory that is cut off', whole.subarray(0, 30)],
  ['a directory at its end', whole.subarray(0, 9)],
  ['next to nothing', whole.subarray(0, 5)],
  ['nothing', whole.subarray(0, 0)],
])('EXIF with %s leaves a picture as it is', async (_, exif) => {
  expect(await lettersOfPng(pngOf(SEEN, exif))).toEqual(SEEN);
  expect(await lettersOfJpeg(jpegOf(SEEN, exifSegment(exif)))).toEqual(SEEN);
  expect(readImageHeader(pngOf(SEEN, exif)).orientation).toBe(1);
});
