import { type ColumnProfile, IMAGE_COLUMN, type ImageShape, type TableReader } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { combineMoments, NO_MOMENTS } from './moments.js';
import { MAX_ENCODED_WIDTH } from './parse-spec.js';
import { type ColumnStatistics, MINIMUM_ROWS, type Moments } from './site-statistics.js';
import { roundCount, roundMoments } from './suppression.js';

const MAX_SIDE = 4_096;

/** @throws `invalid_input` for a size that no model takes */
export function checkImageShape({ height, width, channels }: ImageShape): void {
  const isSize = (side: number) => Number.isInteger(side) && side >= 1 && side <= MAX_SIDE;
  const fits = isSize(height) && isSize(width) && height * width * channels <= MAX_ENCODED_WIDTH;
  if (fits && [1, 3].includes(channels)) return;
  throw new OctomilError(
    'invalid_input',
    `pictures of ${height} × ${width} × ${channels} are not possible: sides are 1 to ${MAX_SIDE}, channels 1 or 3, all together at most ${MAX_ENCODED_WIDTH}`,
  );
}

/**
 * What may leave the site about its pictures: how many there are, and mean and deviation of the numbers of each channel
 * once all have one size. Counts and moments are rounded as those of numbers; null under 10 pictures.
 *
 * @param rows of the table, exact
 * @throws as the reader's `stream`; `cancelled`
 */
export async function describeImages(
  reader: TableReader,
  profile: ColumnProfile,
  shape: ImageShape,
  rows: number,
  signal?: AbortSignal,
): Promise<ColumnStatistics | null> {
  const { height, width, channels } = shape;
  const size = height * width * channels;
  let moments: Moments[] = Array.from({ length: channels }, () => NO_MOMENTS);
  let pictures = 0;
  for await (const chunk of reader.stream([{ column: IMAGE_COLUMN, as: 'image', ...shape }])) {
    if (signal?.aborted === true) throw new OctomilError('cancelled', 'describing the pictures was cancelled');
    const [cells = new Float64Array(0)] = chunk.columns;
    for (let row = 0; row < chunk.rows; row++) {
      const picture = cells.subarray(row * size, (row + 1) * size);
      moments = moments.map((sum, channel) => combineMoments(sum, momentsOf(picture, channel, channels)));
    }
    pictures += chunk.rows;
  }
  if (pictures < MINIMUM_ROWS) return null;
  // Fewer than 10 that are missing or cannot be read count with the others.
  const count = roundCount(rows - pictures < MINIMUM_ROWS ? rows : pictures);
  return {
    ...{ name: profile.name, seen: 'image', count, missing: roundCount(rows) - count },
    ...{ zeros: 0, moments: null, levels: null, categories: [], other: 0 },
    // As of rows: of how many numbers would tell nothing more.
    image: { height, width, channels, moments: moments.map((one) => roundMoments({ ...one, count })) },
  };
}

function momentsOf(picture: Float64Array, channel: number, channels: number): Moments {
  const count = picture.length / channels;
  let sum = 0;
  for (let place = channel; place < picture.length; place += channels) sum += picture[place] ?? 0;
  const mean = sum / count;
  let squares = 0;
  for (let place = channel; place < picture.length; place += channels) squares += ((picture[place] ?? 0) - mean) ** 2;
  return { count, mean, deviation: Math.sqrt(squares / count) };
}
