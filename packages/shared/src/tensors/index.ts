export { DTYPE_BYTES, type Dtype, isDtype } from './dtypes.js';
export { bfloat16ToFloat32, float16ToFloat32 } from './half-floats.js';
export {
  type LayoutTensor,
  layoutOf,
  locateParameter,
  type ParameterLayout,
  parseLayout,
  readLayout,
  readLayoutSync,
  sameLayout,
  type TensorShape,
  weightsFileBytes,
} from './parameter-layout.js';
export {
  compareNames,
  DEFAULT_MAX_HEADER_BYTES,
  elementCount,
  headerLength,
  type ParseOptions,
  parseHeader,
  parseSafetensors,
  type RawTensor,
  type SafetensorsHeader,
  serializeHeader,
  serializeSafetensors,
  type TensorEntry,
} from './safetensors.js';
export { CONTROL_VARIATE, controlLayout, controlledUpdateLayout, stackedLayout } from './stacked-layout.js';
export {
  decodeWeights,
  encodeFlat,
  encodeWeights,
  flatten,
  flatView,
  type NamedTensor,
  unflatten,
  weightsFromSafetensors,
} from './weights-file.js';
