export { checkFormat } from './answer-check.js';
export { checkGguf, type GgufInfo } from './check-gguf.js';
export type {
  ChatMessage,
  EngineDescription,
  EngineHealth,
  FinishReason,
  GenerationEngine,
  GenerationEvent,
  GenerationRequest,
  ResponseFormat,
  TokenUsage,
} from './engine.js';
export { LlamaEngine, type LlamaEngineOptions, openLlamaEngine } from './llama-engine.js';
export { JSON_OBJECT_GRAMMAR, schemaToGrammar } from './schema-grammar.js';
