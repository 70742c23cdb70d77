import { expect, test } from '@jest/globals';
import { DEFAULT_CAPS } from './caps.js';
import { readTopology } from './topology.js';

test('texts that are names of built-in properties stay texts', () => {
  const graph = readTopology(
    {
      class_name: 'Sequential',
      config: [
        {
          class_name: 'Dense',
          config: {
            name: 'toString',
            units: 1,
            activation: 'constructor',
            bias: '__proto__',
            batch_input_shape: [null, 2],
          },
        },
      ],
    },
    DEFAULT_CAPS,
  );
  expect(graph.layers.at(-1)?.config).toMatchObject({ activation: 'constructor', bias: '__proto__', name: 'toString' });
});
