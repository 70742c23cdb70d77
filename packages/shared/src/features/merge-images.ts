import type { ImageColumn } from './feature-spec.js';
import { mismatch } from './merge-target.js';
import { combineMoments, NO_MOMENTS, roundConstant } from './moments.js';
import { needsIndicator, presentRows, type SiteColumn } from './site-columns.js';

/** Whether some site has pictures in the column. */
export function holdsImages(columns: readonly SiteColumn[]): boolean {
  return columns.some(({ column }) => column.seen === 'image');
}

/**
 * One column of pictures, its channels scaled by what all sites' pictures have.
 *
 * @param rows of all sites
 * @throws `data_mismatch` where another site has no pictures in it, or described them in another size
 */
export function mergeImages(
  name: string,
  columns: readonly SiteColumn[],
  { rows, warn, indicator }: { rows: number; warn: (warning: string) => void; indicator: boolean },
): ImageColumn | undefined {
  const [first] = columns.flatMap(({ column }) => column.image ?? []);
  if (first === undefined) return undefined;
  const { height, width, channels } = first;
  const sums = Array.from({ length: channels }, () => NO_MOMENTS);
  for (const { site, column } of columns) {
    const { image } = column;
    if (image === undefined)
      throw mismatch(site, `its column "${name}" holds no pictures, but those of other sites do`);
    if (image.height !== height || image.width !== width || image.moments.length !== channels) {
      throw mismatch(site, `it described its pictures in another size than the others; describe them again`);
    }
    image.moments.forEach((moments, channel) => {
      sums[channel] = combineMoments(sums[channel] ?? NO_MOMENTS, moments);
    });
  }
  const deviation = sums.map((one) => roundConstant(one.deviation));
  if (deviation.every((one) => one === 0)) {
    warn(`column "${name}" is left out: all its pictures are the same even colour`);
    return undefined;
  }
  return {
    kind: 'image',
    name,
    ...{ height, width, channels },
    mean: sums.map((one) => roundConstant(one.mean)),
    // A channel that is the same throughout stays what it is.
    deviation: deviation.map((one) => (one === 0 ? 1 : one)),
    missingMarkers: [],
    missingIndicator: indicator && needsIndicator(presentRows(columns), { rows, markers: undefined, warn }),
  };
}
