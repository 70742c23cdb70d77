export { LlamaEngine, type LlamaEngineOptions, openLlamaEngine } from '../engine/index.js';
export { type ModelVersion, readActiveVersions } from './active-version.js';
export { loadModelsFile, type ServedModelSource, type ServedModels } from './models-file.js';
export type { Prediction } from './predicted-values.js';
export {
  type InputRow,
  openPredictor,
  type PredictionAnswer,
  type Predictor,
  type PredictorOptions,
} from './predictor.js';
export { type Serve, type ServeOptions, startServe } from './start-serve.js';
