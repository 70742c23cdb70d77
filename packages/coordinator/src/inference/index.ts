export { createInferenceService, type InferenceService, type InferenceServiceOptions } from './inference-service.js';
