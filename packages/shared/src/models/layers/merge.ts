import type { LayerRule } from '../layer-config.js';

const elementwise: LayerRule = (layer, inputs) => {
  const [first] = inputs;
  if (first === undefined || inputs.length < 2) throw layer.refuse(`takes two inputs or more, not ${inputs.length}`);
  // tfjs broadcasts too; equal shapes are what models use and what can be said about without surprises.
  const other = inputs.find(
    (shape) => shape.length !== first.length || shape.some((size, axis) => size !== first[axis]),
  );
  if (other !== undefined) throw layer.refuse(`shapes [${first.join(', ')}] and [${other.join(', ')}] differ`);
  return { output: first, weights: [] };
};

const concatenate: LayerRule = (layer, inputs) => {
  const [first] = inputs;
  if (first === undefined || inputs.length < 2) throw layer.refuse(`takes two inputs or more, not ${inputs.length}`);
  const given = layer.settings['axis'] ?? -1;
  const axis = typeof given === 'number' ? (given < 0 ? first.length + given : given - 1) : -1;
  if (first[axis] === undefined)
    throw layer.refuse(`axis ${JSON.stringify(given)} is not one of a row's ${first.length}`);
  for (const shape of inputs) {
    if (shape.length !== first.length || shape.some((size, index) => index !== axis && size !== first[index])) {
      throw layer.refuse(`shapes [${first.join(', ')}] and [${shape.join(', ')}] differ outside axis ${given}`);
    }
  }
  return {
    output: first.with(
      axis,
      inputs.reduce((sum, shape) => sum + (shape[axis] ?? 0), 0),
    ),
    weights: [],
  };
};

export const MERGE_RULES: Readonly<Record<string, LayerRule>> = {
  Add: elementwise,
  Average: elementwise,
  Maximum: elementwise,
  Minimum: elementwise,
  Multiply: elementwise,
  Concatenate: concatenate,
};
