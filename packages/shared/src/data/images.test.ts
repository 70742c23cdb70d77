import { deflateSync } from 'node:zlib';
import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import fc from 'fast-check';
import jpeg from 'jpeg-js';
import { PNG } from 'pngjs';
import { type DecodedImage, decodeImage, resizeImage } from './images.js';

function png(width: number, height: number, rgba: Uint8Array): Buffer {
  const image = new PNG({ width, height });
  image.data = Buffer.from(rgba);
  return PNG.sync.write(image);
}

function chunk(type: string, data: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return Buffer.concat([length, Buffer.from(type, 'latin1'), data, Buffer.alloc(4)]);
}

function pngHeader(width: number, height: number, interlace = 0): Buffer {
  const data = Buffer.alloc(13);
  data.writeUInt32BE(width, 0);
  data.writeUInt32BE(height, 4);
  data.set([8, 6, 0, 0, interlace], 8);
  return chunk('IHDR', data);
}

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const END = chunk('IEND', new Uint8Array());

const image = fc
  .tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }))
  .chain(([width, height]) =>
    fc
      .uint8Array({ minLength: width * height * 4, maxLength: width * height * 4 })
      .map((rgba): DecodedImage => ({ width, height, rgba })),
  );

test('a PNG gives the pixels that were written', async () => {
  await fc.assert(
    fc.asyncProperty(image, async ({ width, height, rgba }) => {
      const decoded = await decodeImage(png(width, height, rgba));
      expect([decoded.width, decoded.height]).toEqual([width, height]);
      expect(Buffer.from(decoded.rgba).equals(rgba)).toBe(true);
    }),
    { numRuns: 30 },
  );
});

test('a JPEG gives its colours, within what its compression changes', async () => {
  const data = Buffer.alloc(20 * 12 * 4, Buffer.from([200, 40, 90, 255]));
  const decoded = await decodeImage(jpeg.encode({ width: 20, height: 12, data }, 95).data);
  expect([decoded.width, decoded.height]).toEqual([20, 12]);
  for (const [index, value] of [200, 40, 90].entries()) {
    expect(Math.abs((decoded.rgba[index] ?? 0) - value)).toBeLessThan(6);
  }
});

const whole = png(4, 3, new Uint8Array(48).fill(7));
const wholeJpeg = jpeg.encode({ width: 16, height: 16, data: Buffer.alloc(1024, 99) }, 80).data;
const frame = wholeJpeg.indexOf(Buffer.from([0xff, 0xc0]));
const vast = Buffer.from(wholeJpeg);
vast.writeUInt16BE(65_000, frame + 5);
vast.writeUInt16BE(65_000, frame + 7);
const scan = Buffer.concat([Buffer.from([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0])]);
const zeros = deflateSync(Buffer.alloc(20_000_000));

test.each([
  ['nothing', Buffer.alloc(0), /neither PNG nor JPEG/],
  ['a GIF', Buffer.from('GIF89a....'), /neither PNG nor JPEG/],
  ['a PNG cut off', whole.subarray(0, whole.length - 20), /cut off|without an end/],
  ['a PNG with a changed byte', Buffer.from(whole).fill(0, 45, 48), /cannot be read/],
  ['a PNG of vast size', Buffer.concat([SIGNATURE, pngHeader(4e9, 4e9), END]), /4000000000 × 4000000000 .* over/],
  ['a PNG of no size', Buffer.concat([SIGNATURE, pngHeader(0, 5), END]), /its size is 0 × 5/],
  ['two PNG headers', Buffer.concat([SIGNATURE, pngHeader(2, 2), pngHeader(60_000, 60_000), END]), /two PNG headers/],
  ['an interlaced bomb', Buffer.concat([SIGNATURE, pngHeader(2, 2, 1), chunk('IDAT', zeros), END]), /larger than/],
  ['a PNG without rows', Buffer.concat([SIGNATURE, pngHeader(2, 2), END]), /cannot be read/],
  ['a JPEG of vast size', vast, /65000 × 65000 .* over/],
  ['a JPEG cut off', wholeJpeg.subarray(0, frame + 4), /no JPEG frame|cut off/],
  ['two JPEG frames', Buffer.concat([wholeJpeg.subarray(0, frame + 19), wholeJpeg.subarray(frame)]), /two JPEG frames/],
  [
    'a thousand scans',
    Buffer.concat([wholeJpeg.subarray(0, frame + 19), ...Array.from({ length: 1_000 }, () => scan)]),
    /100 JPEG scans/,
  ],
])('%s is refused, and what is wrong is said', async (_name, bytes, reason) => {
  await expect(decodeImage(bytes)).rejects.toThrow(reason);
  await expect(decodeImage(bytes)).rejects.toHaveProperty('code');
});

test('no bytes crash the decoders', async () => {
  const start = fc.constantFrom(whole, wholeJpeg);
  const changes = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(start, changes, fc.nat(), async (bytes, edits, cut) => {
      const broken = Buffer.from(bytes.subarray(0, cut % 4 === 0 ? cut % bytes.length : bytes.length));
      for (const [at, value] of edits) if (broken.length > 0) broken[at % broken.length] = value;
      const outcome: unknown = await decodeImage(broken).catch((error: unknown) => error);
      if (!(outcome instanceof OctomilError)) expect(outcome).toHaveProperty('rgba');
    }),
    { numRuns: 200 },
  );
});

test('resizing to the same size changes nothing, to another stays between the least and the greatest', () => {
  const size = fc.integer({ min: 1, max: 12 });
  fc.assert(
    fc.property(image, size, size, (picture, height, width) => {
      const same = resizeImage(picture, { height: picture.height, width: picture.width, channels: 3 });
      const colors = [...picture.rgba].filter((_, index) => index % 4 !== 3).map((value) => value / 255);
      expect(same).toHaveLength(colors.length);
      for (const [index, value] of colors.entries()) expect(same[index]).toBeCloseTo(value, 6);
      const other = resizeImage(picture, { height, width, channels: 3 });
      expect(other).toHaveLength(height * width * 3);
      expect(Math.min(...other)).toBeGreaterThanOrEqual(Math.min(...colors) - 1e-6);
      expect(Math.max(...other)).toBeLessThanOrEqual(Math.max(...colors) + 1e-6);
    }),
  );
});

test('twice the width lies a quarter and three quarters between, and grey is weighed brightness', () => {
  const picture = { width: 2, height: 1, rgba: Uint8Array.from([0, 0, 0, 255, 255, 255, 255, 255]) };
  const wide = resizeImage(picture, { height: 1, width: 4, channels: 1 });
  for (const [index, value] of [0, 0.25, 0.75, 1].entries()) expect(wide[index]).toBeCloseTo(value, 6);
  const red = { width: 1, height: 1, rgba: Uint8Array.from([255, 0, 0, 255]) };
  expect(resizeImage(red, { height: 1, width: 1, channels: 1 })[0]).toBeCloseTo(0.299, 6);
});
