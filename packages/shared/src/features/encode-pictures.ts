import { decodeImage, foldName, type ImageShape, resizeImage } from '@octomil/shared/data';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { encodedWidth } from './column-width.js';
import type { FeatureSpec, ImageColumn } from './feature-spec.js';
import { shapeOf } from './image-encoder.js';

type Row = Readonly<Record<string, unknown>>;

/** A picture, in the size that is asked for, as `resizeImage` gives it. */
export type DecodePicture = (bytes: Uint8Array, shape: ImageShape) => Promise<Float32Array>;

/** Numbers of all rows of one call together. */
const MAX_NUMBERS = 2 ** 24;
const DATA_URL = /^data:image\/(?:png|jpe?g);base64,/;
// No part may match what the next one does: texts come from others, and are long.
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

/**
 * Rows whose pictures (PNG or JPEG, as bytes or as base64) are decoded and resized as `encodeRows` takes them; the rows
 * themselves where the spec has no pictures.
 *
 * @param decode default: here. A server leaves it to a process of its own, since a picture may be made to take minutes
 * @throws `invalid_input` for what is no picture; `too_large` for pictures and rows that are
 */
export async function decodePictures(
  spec: FeatureSpec,
  rows: readonly Row[],
  decode: DecodePicture = decodeHere,
): Promise<readonly Row[]> {
  const columns = spec.columns.filter((column) => column.kind === 'image');
  if (columns.length === 0) return rows;
  if (rows.length * encodedWidth(spec) > MAX_NUMBERS) {
    throw new OctomilError(
      'too_large',
      `${rows.length} rows of ${encodedWidth(spec)} numbers are more than ${MAX_NUMBERS} together; give fewer rows at a time`,
    );
  }
  const decoded: Row[] = [];
  for (const [index, row] of rows.entries()) {
    const replaced: Record<string, unknown> = { ...row };
    // The one that `encodeRows` takes, however many there are.
    const names = new Map(Object.keys(row).map((name) => [foldName(name), name]));
    for (const column of columns) {
      const key = [column.name, ...(column.aliases ?? [])].map(foldName).find((one) => names.has(one));
      const name = key === undefined ? undefined : names.get(key);
      if (name !== undefined) replaced[name] = await pixelsOf(row[name], column, index, decode);
    }
    decoded.push(replaced);
  }
  return decoded;
}

/** Numbers from 0 to 1 in the model's size, made of a picture. */
export class Pixels {
  readonly values: Float64Array;

  constructor(values: Float64Array) {
    this.values = values;
  }
}

async function decodeHere(bytes: Uint8Array, shape: ImageShape): Promise<Float32Array> {
  return resizeImage(await decodeImage(bytes), shape);
}

async function pixelsOf(value: unknown, column: ImageColumn, row: number, decode: DecodePicture): Promise<unknown> {
  if (value === null || value === undefined) return null;
  const shape: ImageShape = shapeOf(column);
  try {
    return new Pixels(new Float64Array(await decode(bytesOf(value), shape)));
  } catch (thrown) {
    const error = toOctomilError(thrown, 'invalid_input');
    const code = error.code === 'data_unreadable' ? 'invalid_input' : error.code;
    throw new OctomilError(code, `row ${row}: the value of "${column.name}": ${error.reason}`, { cause: thrown });
  }
}

function bytesOf(value: unknown): Uint8Array {
  if (value instanceof Uint8Array) return value;
  const base64 = typeof value === 'string' ? value.replace(DATA_URL, '').replaceAll(/\s/g, '') : '';
  if (BASE64.test(base64)) return Buffer.from(base64, 'base64');
  throw new OctomilError('invalid_input', 'it is no picture; give a PNG or JPEG as bytes (Uint8Array) or as base64');
}
