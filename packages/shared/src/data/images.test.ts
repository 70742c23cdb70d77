import { crc32, deflateSync } from 'node:zlib';
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

/** A PNG by its header (bit depth, colour type, interlace) and rows with their filters, other chunks between. */
function rawPng(size: readonly [number, number], kind: readonly number[], rows: readonly number[], ...more: Buffer[]) {
  const [depth = 8, colour = 0, interlace = 0] = kind;
  const data = Buffer.alloc(13);
  data.writeUInt32BE(size[0], 0);
  data.writeUInt32BE(size[1], 4);
  data.set([depth, colour, 0, 0, interlace], 8);
  const parts = [checked('IHDR', data), ...more, checked('IDAT', deflateSync(Uint8Array.from(rows)))];
  return Buffer.concat([SIGNATURE, ...parts, checked('IEND', Buffer.alloc(0))]);
}

function checked(type: string, data: Uint8Array): Buffer {
  const bytes = chunk(type, data);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, -4)), bytes.length - 4);
  return bytes;
}

const PALETTE = checked('PLTE', Buffer.from([10, 20, 30, 200, 100, 0]));
const plainJpeg = jpeg.encode({ width: 16, height: 8, data: Buffer.alloc(512, 99) }, 100).data;
const greyOf = (...levels: number[]) => levels.flatMap((level) => [level, level, level]);
// Red in four inks, as printers' files have it, and a progressive grey; both by another library.
const CMYK =
  '/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAbEhQXFBEbFxYXHhwbIChCKyglJShROj0wQmBVZWRfVV1baniZgWpxkHNbXYW1hpCeo6utq2eAvMm6pseZqKuk/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABQAAQAAAAAAAAAAAAAAAAAAAAb/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/9oADgRDAE0AWQBLAAA/AEwyMkz/2Q==';
const PROGRESSIVE =
  '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8ybqmx5moq6T/wgALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//aAAgBAQAAAAEf/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABBQJ//8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQAGPwJ//8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPyF//9oACAEBAAAAEP8A/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxB//9k=';

test.each([
  ['a palette', rawPng([2, 1], [8, 3], [0, 1, 0], PALETTE), [2, 1], [200, 100, 0, 10, 20, 30], 0],
  ['1 bit a pixel', rawPng([2, 1], [1, 0], [0, 0b01000000]), [2, 1], greyOf(0, 255), 0],
  ['16 bits a colour', rawPng([2, 1], [16, 0], [0, 0x80, 0x00, 0xff, 0xff]), [2, 1], greyOf(128, 255), 1],
  ['interlaced', rawPng([2, 2], [8, 0, 1], [0, 1, 0, 2, 0, 3, 4]), [2, 2], greyOf(1, 2, 3, 4), 0],
  ['four inks', Buffer.from(CMYK, 'base64'), [8, 8], Array(64).fill([255, 0, 0]).flat(), 12],
  [
    'progressive',
    Buffer.from(PROGRESSIVE, 'base64'),
    [8, 8],
    Array(64)
      .fill(90)
      .flatMap((level: number) => greyOf(level)),
    12,
  ],
] as const)('%s gives its colours as they are stored', async (_name, bytes, size, colours, tolerance) => {
  const { width, height, rgba } = await decodeImage(bytes);
  expect([width, height]).toEqual(size);
  const found = [...rgba].filter((_, index) => index % 4 !== 3);
  expect(found).toHaveLength(colours.length);
  for (const [index, value] of found.entries()) {
    expect(Math.abs(value - Number(colours[index]))).toBeLessThanOrEqual(tolerance);
  }
});

test('resizing is what the formula says, in 64-bit numbers', () => {
  const size = fc.integer({ min: 1, max: 12 });
  fc.assert(
    fc.property(image, size, size, fc.constantFrom(1 as const, 3 as const), (picture, height, width, channels) => {
      const weigh = (from: number, to: number, index: number, pixel: number): number => {
        const place = Math.min(from - 1, Math.max(0, ((index + 0.5) * from) / to - 0.5));
        return Math.max(0, 1 - Math.abs(place - pixel));
      };
      const resized = resizeImage(picture, { height, width, channels });
      let at = 0;
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const colour = [0, 0, 0];
          for (let row = 0; row < picture.height; row++) {
            for (let column = 0; column < picture.width; column++) {
              const share = weigh(picture.height, height, y, row) * weigh(picture.width, width, x, column);
              for (const channel of [0, 1, 2]) {
                const value = picture.rgba[(row * picture.width + column) * 4 + channel] ?? 0;
                colour[channel] = (colour[channel] ?? 0) + (share * value) / 255;
              }
            }
          }
          const [red = 0, green = 0, blue = 0] = colour;
          const expected = channels === 3 ? colour : [0.299 * red + 0.587 * green + 0.114 * blue];
          for (const value of expected) expect(resized[at++]).toBeCloseTo(value, 6);
        }
      }
      expect(at).toBe(resized.length);
    }),
    { numRuns: 50 },
  );
});

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
  ['a JPEG cut off in its picture', plainJpeg.subarray(0, -100), /cannot be read/],
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
