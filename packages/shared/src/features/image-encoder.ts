import type { ImageShape } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { ColumnEncoder } from './column-encoder.js';
import type { ImageColumn } from './feature-spec.js';
import { CLIP_DEVIATIONS } from './number-encoder.js';

/** The size that pictures of the column are resized to. @throws `data_mismatch` for channels that no picture has */
export function shapeOf({ name, height, width, channels }: ImageColumn): ImageShape {
  if (channels === 1 || channels === 3) return { height, width, channels };
  throw new OctomilError(
    'data_mismatch',
    `the column "${name}" holds pictures of ${channels} channels; they have 1 (brightness) or 3 (colours)`,
  );
}

/** Each number scaled as its channel is; a picture that is missing is 0 throughout. */
export function imageEncoder(column: ImageColumn): ColumnEncoder {
  const shape = shapeOf(column);
  const { channels } = shape;
  const size = shape.height * shape.width * channels;
  const scales = column.deviation.map((deviation) => 1 / deviation);
  const { mean, missingIndicator } = column;
  return {
    cell: { column: column.name, as: 'image', ...shape },
    width: size + (missingIndicator ? 1 : 0),
    encode(cells, picked, count, out, at, stride) {
      for (let i = 0; i < count; i++) {
        const from = (picked[i] ?? 0) * size;
        const to = at + i * stride;
        // Where a table lacks the column there is one number a row.
        if (Number.isNaN(cells[from] ?? Number.NaN) || cells.length < from + size) {
          if (missingIndicator) out[to + size] = 1;
          continue;
        }
        for (let channel = 0; channel < channels; channel++) {
          const middle = mean[channel] ?? 0;
          const scale = scales[channel] ?? 1;
          for (let place = channel; place < size; place += channels) {
            const value = ((cells[from + place] ?? 0) - middle) * scale;
            out[to + place] = Math.min(CLIP_DEVIATIONS, Math.max(-CLIP_DEVIATIONS, value));
          }
        }
      }
      return true;
    },
  };
}
