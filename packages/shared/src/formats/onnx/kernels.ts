import { type ByteParts, bytesOf } from '../byte-parts.js';

/**
 * A convolution's kernel from tfjs's order [...window, in, out] to ONNX's [out, in, ...window], made when it is written.
 *
 * @param groups 1, or for a depthwise kernel [...window, in, multiplier] the number of channels: the answer's first axis
 * is then in · multiplier and its second 1
 */
export function kernelForOnnx(
  data: Float32Array,
  shape: readonly number[],
  groups: number,
): { shape: number[]; bytes: ByteParts } {
  const window = shape.slice(0, -2);
  const [inputs = 1, outputs = 1] = shape.slice(-2);
  const places = window.reduce((total, size) => total * size, 1);
  const make = (): Float32Array => {
    const out = new Float32Array(data.length);
    let target = 0;
    const copy = (input: number, output: number): void => {
      for (let place = 0; place < places; place++) {
        out[target] = data[(place * inputs + input) * outputs + output] ?? 0;
        target++;
      }
    };
    if (groups === 1) {
      for (let output = 0; output < outputs; output++) for (let input = 0; input < inputs; input++) copy(input, output);
    } else {
      for (let input = 0; input < inputs; input++) for (let output = 0; output < outputs; output++) copy(input, output);
    }
    return out;
  };
  return {
    shape: groups === 1 ? [outputs, inputs, ...window] : [inputs * outputs, 1, ...window],
    bytes: { sizeBytes: data.byteLength, parts: () => [bytesOf(make())] },
  };
}
