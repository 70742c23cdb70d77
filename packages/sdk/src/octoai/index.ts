export {
  type ChatChoice,
  ChatCompletionChunk,
  ChatCompletionResponse,
  type ChoiceDelta,
  type ChunkChoice,
  type CompletionUsage,
} from './chat-completion.js';
export { ChatMessage, type FunctionCall } from './chat-message.js';
export type {
  ChatCompletionRequest,
  ChatCompletionStreamRequest,
  ChatMessageLike,
  ChatResponseFormat,
} from './chat-request.js';
export { DEFAULT_OCTOAI_BASE, OctoAI, type OctoAIOptions, TextGen } from './octo-ai.js';
