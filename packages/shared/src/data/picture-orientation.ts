import type { DecodedImage } from './images.js';

/**
 * How a picture lies in its file, as EXIF counts it: 1 as it is meant to be seen, 2 mirrored, 3 turned by half, 4 both, 5
 * to 8 with rows and columns exchanged.
 */
export type Orientation = 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;

const ORIENTATION_TAG = 0x0112;
const SHORT = 3;
const ENTRY_BYTES = 12;

/**
 * The orientation that a block of EXIF notes (TIFF 6.0, first directory); 1 where it notes none or none that there is. A
 * damaged block says nothing: no viewer refuses a picture for it.
 */
export function readOrientation(exif: Buffer): Orientation {
  const order = exif.toString('latin1', 0, 2);
  if (exif.length < 8 || (order !== 'II' && order !== 'MM')) return 1;
  const short = (at: number): number => (order === 'II' ? exif.readUInt16LE(at) : exif.readUInt16BE(at));
  const directory = order === 'II' ? exif.readUInt32LE(4) : exif.readUInt32BE(4);
  if (short(2) !== 42 || directory + 2 > exif.length) return 1;
  const end = Math.min(directory + 2 + short(directory) * ENTRY_BYTES, exif.length);
  for (let at = directory + 2; at + ENTRY_BYTES <= end; at += ENTRY_BYTES) {
    if (short(at) === ORIENTATION_TAG) return short(at + 2) === SHORT ? known(short(at + 8)) : 1;
  }
  return 1;
}

function known(value: number): Orientation {
  return value >= 1 && value <= 8 ? (value as Orientation) : 1;
}

/** The picture as it is meant to be seen. */
export function uprightImage(image: DecodedImage, orientation: Orientation): DecodedImage {
  if (orientation === 1) return image;
  const { width, height, rgba } = image;
  const exchanged = orientation >= 5;
  const upright = { width: exchanged ? height : width, height: exchanged ? width : height };
  const fromRight = [2, 3, 7, 8].includes(orientation);
  const fromBottom = [3, 4, 6, 7].includes(orientation);
  // A view would begin at any byte, words have to begin at every fourth.
  const aligned = rgba.byteOffset % 4 === 0 ? rgba : new Uint8Array(rgba);
  const pixels = new Uint32Array(aligned.buffer, aligned.byteOffset, width * height);
  const turned = new Uint32Array(width * height);
  let write = 0;
  for (let y = 0; y < upright.height; y++) {
    for (let x = 0; x < upright.width; x++) {
      const column = exchanged ? y : x;
      const row = exchanged ? x : y;
      const from = (fromBottom ? height - 1 - row : row) * width + (fromRight ? width - 1 - column : column);
      turned[write++] = pixels[from] ?? 0;
    }
  }
  return { ...upright, rgba: new Uint8Array(turned.buffer) };
}
