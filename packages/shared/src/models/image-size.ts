import type { Architecture } from './architecture.js';

/** What a model takes pictures in. */
export interface ImageSize {
  readonly height: number;
  readonly width: number;
  /** 1: brightness; 3: red, green, blue. */
  readonly channels: 1 | 3;
}

/** The size of the pictures that a model can take; undefined for one whose input is no picture. */
export function imageSizeOf(architecture: Architecture): ImageSize | undefined {
  const shape = architecture.name === 'cnn' ? architecture.inputShape : inputShapeOf(architecture);
  const [height, width, channels, ...more] = shape;
  if (height === undefined || width === undefined || more.length > 0) return undefined;
  return channels === 1 || channels === 3 ? { height, width, channels } : undefined;
}

/** Without the batch; empty where the topology does not say it. */
function inputShapeOf(architecture: Architecture): number[] {
  if (architecture.name !== 'layers') return [];
  const shape = /"batch_?input_?shape":\[null,([0-9,]+)\]/i.exec(JSON.stringify(architecture.topology))?.[1];
  return (shape ?? '').split(',').flatMap((size) => (size === '' ? [] : [Number(size)]));
}
