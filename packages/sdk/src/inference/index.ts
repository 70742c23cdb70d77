export type { ChatMessage as ChatTurn, FinishReason, ResponseFormat } from '@octomil/inference/engine';
export type { EmbeddingResult, EmbeddingUsage, EmbedOptions, StreamToken } from './gateway-source.js';
export type { InferenceOptions, PredictOptions, StreamPredictOptions } from './inference.js';
export type { InferenceMetrics, InferenceMetricsOptions, LatencySummary } from './inference-metrics.js';
export type { LoadedModel, LoadModelOptions } from './loaded-model.js';
export type { RouteOptions } from './places.js';
export {
  type EngineName,
  Prediction,
  PredictionChunk,
  type PredictionMetrics,
  type RouteDecision,
} from './prediction.js';
export { PredictionStream } from './prediction-stream.js';
export type { GenerationInput, GenerationOptions, GenerationParameters, WaitOptions } from './request.js';
export { embed, type GatewayOptions, streamInference } from './standalone.js';
export { StreamingInferenceClient } from './streaming-inference-client.js';
