export type {
  ChatMessage,
  EngineDescription,
  FinishReason,
  GenerationEngine,
  GenerationEvent,
  GenerationRequest,
  ResponseFormat,
  TokenUsage,
} from './engine.js';
