import { expect, test } from '@jest/globals';
import { imageSizeOf } from './image-size.js';

const output = { kind: 'binary' } as const;
const cnn = (inputShape: [number, number, number]) =>
  imageSizeOf({ name: 'cnn', inputShape, filters: [4], kernelSize: 3, hidden: 4, activation: 'relu', output });
const layers = (shape: readonly (number | null)[]) =>
  imageSizeOf({
    ...{ name: 'layers', output },
    topology: { class_name: 'Sequential', config: { layers: [{ config: { batch_input_shape: shape } }] } },
  });

test('the size of pictures is the input of networks that take brightness or three colours', () => {
  expect(cnn([28, 20, 3])).toEqual({ height: 28, width: 20, channels: 3 });
  expect(cnn([28, 20, 2])).toBeUndefined();
  expect(layers([null, 8, 9, 1])).toEqual({ height: 8, width: 9, channels: 1 });
  expect(layers([null, 8])).toBeUndefined();
  expect(layers([null, 8, 8, 8, 1])).toBeUndefined();
  expect(imageSizeOf({ name: 'logistic', output })).toBeUndefined();
});
