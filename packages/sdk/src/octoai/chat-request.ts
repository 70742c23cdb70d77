import { OctomilClientError } from '../client-error.js';
import type { WaitOptions } from '../inference/request.js';
import { snakeNames } from '../wire-names.js';
import type { ChatMessage } from './chat-message.js';
import type { WireFields } from './wire.js';

export type ChatMessageLike = Pick<ChatMessage, 'role' | 'content'> & Partial<Pick<ChatMessage, 'functionCall'>>;

/** What the answer must look like, by the names of the wire. */
export type ChatResponseFormat =
  | { readonly type: 'text' | 'json_object' }
  | {
      readonly type: 'json_schema';
      readonly json_schema: {
        readonly name: string;
        readonly schema: Readonly<Record<string, unknown>>;
        readonly strict?: boolean;
      };
    };

/** Each parameter left out is left to the server. */
export interface ChatCompletionRequest extends WaitOptions {
  readonly model: string;
  readonly messages: readonly ChatMessageLike[];
  /** -2 to 2: above 0, what was said often becomes less likely. */
  readonly frequencyPenalty?: number;
  /** -2 to 2: above 0, what was said at all becomes less likely. */
  readonly presencePenalty?: number;
  /** Above 0; above 1, what was said becomes less likely. */
  readonly repetitionPenalty?: number;
  readonly logitBias?: Readonly<Record<string, number>>;
  readonly maxTokens?: number;
  /** How many answers. */
  readonly n?: number;
  readonly responseFormat?: ChatResponseFormat;
  readonly seed?: number;
  readonly stop?: string | readonly string[];
  /** 0 to 2. */
  readonly temperature?: number;
  /** Above 0 and at most 1. */
  readonly topP?: number;
  /** Whose question it is, for the server's own account. */
  readonly user?: string;
}

export interface ChatCompletionStreamRequest extends ChatCompletionRequest {
  /** `includeUsage`: a last chunk says how many tokens there were. */
  readonly streamOptions?: { readonly includeUsage?: boolean };
}

/** @throws OctomilClientError `invalid_input` naming the field */
export function requestBody(request: ChatCompletionStreamRequest): WireFields {
  const { messages, streamOptions, signal: _signal, timeoutMs: _timeoutMs, ...parameters } = request;
  if (typeof parameters.model !== 'string' || parameters.model === '') throw wrong('model', 'the name of a model');
  if (!Array.isArray(messages) || messages.length === 0) throw wrong('messages', 'a list with at least one message');
  for (const [index, message] of (messages as readonly unknown[]).entries()) {
    if (typeof message !== 'object' || message === null)
      throw wrong(`messages[${index}]`, 'a message with role and content');
  }
  for (const [name, value] of Object.entries(parameters)) {
    if (typeof value === 'bigint') throw wrong(name, 'a number, not a bigint');
    if (typeof value === 'number' && !Number.isFinite(value)) throw wrong(name, `a number, not ${value}`);
  }
  return {
    ...snakeNames(parameters),
    messages: (messages as readonly ChatMessageLike[]).map(messageBody),
    ...(streamOptions === undefined ? {} : { stream_options: snakeNames(streamOptions) }),
  };
}

/** Without the nulls, which not every server takes. */
function messageBody({ role, content, functionCall }: ChatMessageLike): WireFields {
  return { role, content, ...(functionCall == null ? {} : { function_call: functionCall }) };
}

function wrong(field: string, expected: string): OctomilClientError {
  return new OctomilClientError('invalid_input', `${field} must be ${expected}`, { details: { field } });
}
