import { OctomilError } from '@octomil/shared/errors';
import { type Orientation, readOrientation } from './picture-orientation.js';

export interface ImageHeader {
  readonly format: 'png' | 'jpeg';
  /** As the pixels lie in the file, whatever the orientation. */
  readonly width: number;
  readonly height: number;
  readonly orientation: Orientation;
  /** PNG only: its rows come in seven passes. */
  readonly interlaced: boolean;
}

const PNG_SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
/** A picture of ordinary tools has at most a dozen; each makes the decoder go over the whole picture again. */
const MAX_JPEG_SCANS = 100;
const EXIF_MARK = 'Exif\0\0';

/**
 * Format and size of a PNG or JPEG from its header, nothing being unpacked. Walks the whole file's structure, since a
 * second header would tell the decoder another size than was checked.
 *
 * @throws `data_unreadable` saying what is wrong: another format, a cut-off file, two headers
 */
export function readImageHeader(bytes: Uint8Array): ImageHeader {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.subarray(0, 8).equals(PNG_SIGNATURE)) return pngHeader(view);
  if (view.length > 3 && view.readUInt16BE(0) === 0xffd8) return jpegHeader(view);
  // What it holds instead is not told: the message may leave the site.
  throw unreadable('it is neither PNG nor JPEG');
}

/** The compressed rows of a PNG, in order. */
export function pngRows(bytes: Uint8Array): Buffer[] {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return pngChunks(view)
    .filter(({ type }) => type === 'IDAT')
    .map(({ start, length }) => view.subarray(start, start + length));
}

/** What to tell of a picture that cannot be read. */
export function unreadable(reason: string, cause?: unknown): OctomilError {
  return new OctomilError('data_unreadable', `the picture cannot be read: ${reason}`, { cause });
}

// PNG: https://www.w3.org/TR/png-3/#5DataRep
function pngHeader(view: Buffer): ImageHeader {
  const [first, ...others] = pngChunks(view);
  if (first?.type !== 'IHDR' || first.length !== 13) throw unreadable('its first PNG chunk is not a header (IHDR)');
  if (others.some(({ type }) => type === 'IHDR')) throw unreadable('it has two PNG headers (IHDR)');
  const exif = others.find(({ type }) => type === 'eXIf');
  return sized({
    format: 'png',
    width: view.readUInt32BE(first.start),
    height: view.readUInt32BE(first.start + 4),
    orientation: exif === undefined ? 1 : readOrientation(view.subarray(exif.start, exif.start + exif.length)),
    interlaced: view[first.start + 12] !== 0,
  });
}

interface Chunk {
  readonly type: string;
  readonly start: number;
  readonly length: number;
}

function pngChunks(view: Buffer): Chunk[] {
  const chunks: Chunk[] = [];
  let offset = PNG_SIGNATURE.length;
  while (chunks.at(-1)?.type !== 'IEND') {
    if (offset + 12 > view.length) throw unreadable(`its PNG chunks end at byte ${offset} without an end (IEND)`);
    const length = view.readUInt32BE(offset);
    const type = view.toString('latin1', offset + 4, offset + 8);
    if (offset + 12 + length > view.length) {
      throw unreadable(`its PNG chunk of ${length} bytes is cut off at byte ${view.length}`);
    }
    chunks.push({ type, start: offset + 8, length });
    offset += 12 + length;
  }
  return chunks;
}

// JPEG: ITU-T T.81, annex B
function jpegHeader(view: Buffer): ImageHeader {
  let header: ImageHeader | undefined;
  let exif: Buffer | undefined;
  let scans = 0;
  let offset = 2;
  while (offset + 4 <= view.length) {
    const marker = view[offset + 1] ?? 0;
    // Between markers lies what is compressed, in which 0xff is followed by zero or by a restart marker.
    if (view[offset] !== 0xff || marker === 0 || marker === 0xff || (marker >= 0xd0 && marker <= 0xd7)) {
      const next = view.indexOf(0xff, offset + 1);
      offset = next === -1 ? view.length : next;
      continue;
    }
    if (marker === 0xd9) break;
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) {
      if (header !== undefined) throw unreadable('it has two JPEG frames');
      if (offset + 9 > view.length) throw unreadable('its JPEG frame header is cut off');
      const [height, width] = [view.readUInt16BE(offset + 5), view.readUInt16BE(offset + 7)];
      header = sized({ format: 'jpeg', width, height, orientation: 1, interlaced: false });
    }
    if (marker === 0xe1 && scans === 0)
      exif ??= exifOf(view.subarray(offset + 4, offset + 2 + view.readUInt16BE(offset + 2)));
    if (marker === 0xda && ++scans > MAX_JPEG_SCANS) {
      throw unreadable(`it has more than ${MAX_JPEG_SCANS} JPEG scans, each of which takes the time of a picture`);
    }
    offset += 2 + view.readUInt16BE(offset + 2);
  }
  if (header === undefined) throw unreadable('it has no JPEG frame');
  return exif === undefined ? header : { ...header, orientation: readOrientation(exif) };
}

/** What the segment holds where it is EXIF: others, such as XMP, have the same marker. */
function exifOf(segment: Buffer): Buffer | undefined {
  return segment.toString('latin1', 0, EXIF_MARK.length) === EXIF_MARK ? segment.subarray(EXIF_MARK.length) : undefined;
}

function sized(header: ImageHeader): ImageHeader {
  if (header.width < 1 || header.height < 1) throw unreadable(`its size is ${header.width} × ${header.height}`);
  return header;
}
