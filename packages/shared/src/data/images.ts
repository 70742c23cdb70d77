import { inflateSync } from 'node:zlib';
import { OctomilError } from '@octomil/shared/errors';
import { type ImageHeader, pngRows, readImageHeader, unreadable } from './image-header.js';
import { uprightImage } from './picture-orientation.js';

export interface ImageLimits {
  readonly maxWidth: number;
  readonly maxHeight: number;
  /** Width times height: decoding takes about 12 bytes for each. */
  readonly maxPixels: number;
  readonly maxEncodedBytes: number;
}

/** Whole-slide pictures are cut to tiles before training; a radiograph has 10 to 20 million pixels. */
export const DEFAULT_IMAGE_LIMITS: ImageLimits = {
  maxWidth: 16_384,
  maxHeight: 16_384,
  maxPixels: 40_000_000,
  maxEncodedBytes: 64 * 1024 * 1024,
};

export interface DecodedImage {
  readonly width: number;
  readonly height: number;
  /** Red, green, blue, opacity; row by row, from 0 to 255. */
  readonly rgba: Uint8Array;
}

export interface ImageShape {
  readonly height: number;
  readonly width: number;
  /** 1: brightness; 3: red, green, blue. */
  readonly channels: 1 | 3;
}

/** Brightness of red, green and blue (ITU-R BT.601), as image libraries convert to grey. */
const BRIGHTNESS = [0.299, 0.587, 0.114] as const;

/**
 * Decodes a PNG or JPEG whose size, as its header tells it, is within the limits. Nothing of the picture's size is
 * allocated before. It is turned as its camera or scanner noted (EXIF), so that it lies as people see it.
 *
 * @throws `too_large` naming the limit; `data_unreadable` saying what is wrong with the picture
 */
export async function decodeImage(
  bytes: Uint8Array,
  limits: ImageLimits = DEFAULT_IMAGE_LIMITS,
): Promise<DecodedImage> {
  if (bytes.length > limits.maxEncodedBytes) {
    throw new OctomilError('too_large', `a picture of ${bytes.length} bytes is over ${limits.maxEncodedBytes} bytes`);
  }
  const header = readImageHeader(bytes);
  checkSize(header, limits);
  const decoded = header.format === 'png' ? await decodePng(bytes, header) : await decodeJpeg(bytes, header);
  if (decoded.width !== header.width || decoded.height !== header.height) {
    throw unreadable(
      `it has ${decoded.width} × ${decoded.height} pixels, its header tells ${header.width} × ${header.height}`,
    );
  }
  return uprightImage(decoded, header.orientation);
}

function checkSize({ width, height }: ImageHeader, limits: ImageLimits): void {
  const { maxWidth, maxHeight, maxPixels } = limits;
  if (width > maxWidth || height > maxHeight || width * height > maxPixels) {
    throw new OctomilError(
      'too_large',
      `a picture of ${width} × ${height} pixels is over ${maxWidth} × ${maxHeight} or ${maxPixels} pixels; resize it`,
    );
  }
}

async function decodePng(bytes: Uint8Array, { width, height, interlaced }: ImageHeader): Promise<DecodedImage> {
  const { PNG } = await import('pngjs');
  try {
    // Of an interlaced picture, pngjs unpacks whatever there is. At most 8 bytes a pixel; the passes add a byte a row each.
    if (interlaced)
      inflateSync(Buffer.concat(pngRows(bytes)), { maxOutputLength: width * height * 8 + height * 7 + 64 });
    const png = PNG.sync.read(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    return { width: png.width, height: png.height, rgba: png.data };
  } catch (error) {
    throw unreadable(reasonOf(error), error);
  }
}

async function decodeJpeg(bytes: Uint8Array, { width, height }: ImageHeader): Promise<DecodedImage> {
  const { default: jpeg } = await import('jpeg-js');
  try {
    const { data, ...size } = jpeg.decode(bytes, {
      useTArray: true,
      tolerantDecoding: false,
      maxResolutionInMP: Math.ceil((width * height) / 1e6) + 1,
      // Coefficients, lines and pixels, in its own reckoning; small pictures still need their tables.
      maxMemoryUsageInMB: 16 + Math.ceil(((width + 32) * (height + 32) * 24) / 2 ** 20),
    });
    return { width: size.width, height: size.height, rgba: data };
  } catch (error) {
    throw unreadable(reasonOf(error), error);
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * The picture in another size, between its pixels by their distance (bilinear, centres at halves, as TensorFlow and
 * PyTorch resize by default), as numbers from 0 to 1: height x width x channels. Opacity is left out.
 */
export function resizeImage(image: DecodedImage, { height, width, channels }: ImageShape): Float32Array {
  const resized = new Float32Array(height * width * channels);
  const rows = neighbours(image.height, height);
  const columns = neighbours(image.width, width);
  const { rgba } = image;
  let write = 0;
  for (const row of rows) {
    const top = row.first * image.width;
    const bottom = row.second * image.width;
    for (const { first, second, share } of columns) {
      const [a, b, c, d] = [(top + first) * 4, (top + second) * 4, (bottom + first) * 4, (bottom + second) * 4];
      let brightness = 0;
      for (let channel = 0; channel < 3; channel++) {
        const above = mix(rgba[a + channel] ?? 0, rgba[b + channel] ?? 0, share);
        const below = mix(rgba[c + channel] ?? 0, rgba[d + channel] ?? 0, share);
        const value = mix(above, below, row.share) / 255;
        if (channels === 3) resized[write++] = value;
        else brightness += (BRIGHTNESS[channel] ?? 0) * value;
      }
      if (channels === 1) resized[write++] = brightness;
    }
  }
  return resized;
}

interface Neighbours {
  readonly first: number;
  readonly second: number;
  /** Of the second, from 0 to 1. */
  readonly share: number;
}

function neighbours(from: number, to: number): Neighbours[] {
  return Array.from({ length: to }, (_, index) => {
    const place = Math.min(from - 1, Math.max(0, ((index + 0.5) * from) / to - 0.5));
    const first = Math.floor(place);
    return { first, second: Math.min(from - 1, first + 1), share: place - first };
  });
}

function mix(first: number, second: number, share: number): number {
  return first + (second - first) * share;
}
