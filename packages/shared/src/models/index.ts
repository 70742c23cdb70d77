export {
  ACTIVATIONS,
  type Activation,
  ARCHITECTURE_NAMES,
  type Architecture,
  ArchitectureSchema,
  type Output,
  outputWidth,
  parseArchitecture,
} from './architecture.js';
export {
  type BuiltModel,
  buildModel,
  getFlat,
  type NamedVariable,
  setFlat,
  type TensorBackend,
  trainableVariables,
} from './build-model.js';
export { DEFAULT_CAPS, type ModelCaps } from './caps.js';
export { encodeModelDocument, type ModelDocument, modelDocument, parseModelDocument } from './document.js';
export { type ImageSize, imageSizeOf } from './image-size.js';
export {
  checkCaps,
  initialWeights,
  LAYER_TYPES,
  type ModelPlan,
  type NamedLayer,
  namedLayers,
  parameterLayout,
  planModel,
} from './model-plan.js';
export { type Random, seededRandom, shuffle } from './random.js';
