export type {
  BackendCall,
  BackendHealth,
  ChatRequest,
  Embedded,
  FlowControl,
  Generated,
  InferenceBackend,
  ReportedUsage,
} from './backend.js';
export { type BackendTimeouts, DEFAULT_TIMEOUTS } from './deadlines.js';
export {
  createGateway,
  type Gateway,
  type GatewayAnswer,
  type GatewayCall,
  type GatewayHealth,
  type GatewayLimits,
  type GatewayOptions,
  type ListedModel,
} from './gateway.js';
export {
  backendsOf,
  DEFAULT_OLLAMA_BASE_URL,
  type GatewayConfig,
  gatewayConfigFromEnvironment,
} from './gateway-config.js';
export { registerInferenceRoutes } from './inference-routes.js';
export { type BackendOptions, ollamaBackend } from './ollama-backend.js';
export { type OpenAiBackendOptions, openAiBackend } from './openai-backend.js';
export { registerOpenAiRoutes } from './openai-routes.js';
export type { InferenceRoutesOptions, RouteHost } from './route-host.js';
