/** The process that decodes pictures, one at a time: what a picture makes it do or take is ended with it. */
import { decodeImage, type ImageShape, resizeImage } from '@octomil/shared/data';
import { type ErrorBody, toOctomilError } from '@octomil/shared/errors';

export interface ToPictures {
  readonly bytes: Uint8Array;
  readonly shape: ImageShape;
}

export type FromPictures = { readonly pixels: Float32Array } | { readonly failure: ErrorBody };

async function answer({ bytes, shape }: ToPictures): Promise<FromPictures> {
  try {
    return { pixels: resizeImage(await decodeImage(bytes), shape) };
  } catch (error) {
    return { failure: toOctomilError(error, 'data_unreadable').toBody() };
  }
}

process.on('message', (message: ToPictures) => {
  void answer(message).then((from) => {
    if (process.connected) process.send?.(from);
  });
});
process.on('disconnect', () => process.exit(0));
process.on('SIGINT', () => undefined);
