export { checkFormat, MAX_TOOL_CHARACTERS, toolRules } from './answer-check.js';
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
  Said,
  TokenUsage,
  ToolCall,
  ToolFunction,
  ToolUse,
} from './engine.js';
export { LlamaEngine, type LlamaEngineOptions, openLlamaEngine } from './llama-engine.js';
export { JSON_OBJECT_GRAMMAR, schemaToGrammar } from './schema-grammar.js';
