import { ChatMessage, type FunctionCall } from './chat-message.js';
import { count, fields, text, type WireFields } from './wire.js';

/** `stop`: the text is whole; `length`: it was cut at `maxTokens`. Null while a stream goes on. */
export type FinishReason = 'stop' | 'length' | 'function_call' | 'tool_calls' | 'content_filter' | (string & {});

export interface CompletionUsage {
  readonly completionTokens: number;
  readonly promptTokens: number;
  readonly totalTokens: number;
}

export interface ChatChoice {
  readonly index: number;
  readonly message: ChatMessage;
  readonly delta: null;
  readonly finishReason: FinishReason | null;
}

/** What a chunk adds to a choice. */
export interface ChoiceDelta {
  readonly role: string | null;
  /** Empty where a chunk adds no text. */
  readonly content: string;
  readonly functionCall: FunctionCall | null;
}

export interface ChunkChoice {
  readonly index: number;
  readonly delta: ChoiceDelta;
  readonly finishReason: FinishReason | null;
}

/** An answer. As JSON it has the names of the wire: `JSON.stringify(completion, null, 2)`. */
export class ChatCompletionResponse {
  readonly id: string;
  readonly choices: readonly ChatChoice[];
  /** Seconds since the epoch. */
  readonly created: number;
  readonly model: string;
  readonly object: string;
  readonly systemFingerprint: string | null;
  readonly usage: CompletionUsage | null;

  constructor(wire: WireFields) {
    this.id = text(wire['id']) ?? '';
    this.choices = list(wire['choices']).map(choiceOf);
    this.created = count(wire['created']);
    this.model = text(wire['model']) ?? '';
    this.object = text(wire['object']) ?? 'chat.completion';
    this.systemFingerprint = text(wire['system_fingerprint']);
    this.usage = usageOf(wire['usage']);
  }

  toJSON(): WireFields {
    return {
      id: this.id,
      choices: this.choices.map(({ index, message, delta, finishReason }) => ({
        index,
        message: message.toJSON(),
        delta,
        finish_reason: finishReason,
      })),
      created: this.created,
      model: this.model,
      object: this.object,
      system_fingerprint: this.systemFingerprint,
      usage: usageJson(this.usage),
    };
  }
}

/** A piece of an answer. The one that brings `usage`, where it was asked for, has no choice. */
export class ChatCompletionChunk {
  readonly id: string;
  readonly choices: readonly ChunkChoice[];
  /** Seconds since the epoch. */
  readonly created: number;
  readonly model: string;
  readonly object: string;
  readonly systemFingerprint: string | null;
  readonly usage: CompletionUsage | null;

  constructor(wire: WireFields) {
    this.id = text(wire['id']) ?? '';
    this.choices = list(wire['choices']).map(chunkChoiceOf);
    this.created = count(wire['created']);
    this.model = text(wire['model']) ?? '';
    this.object = text(wire['object']) ?? 'chat.completion.chunk';
    this.systemFingerprint = text(wire['system_fingerprint']);
    this.usage = usageOf(wire['usage']);
  }

  /** What the first choice adds. */
  toString(): string {
    return this.choices[0]?.delta.content ?? '';
  }

  toJSON(): WireFields {
    return {
      id: this.id,
      choices: this.choices.map(({ index, delta, finishReason }) => ({
        index,
        delta: { role: delta.role, content: delta.content, function_call: delta.functionCall },
        finish_reason: finishReason,
      })),
      created: this.created,
      model: this.model,
      object: this.object,
      system_fingerprint: this.systemFingerprint,
      usage: usageJson(this.usage),
    };
  }
}

function list(value: unknown): readonly WireFields[] {
  return Array.isArray(value) ? value.map(fields) : [];
}

function choiceOf(wire: WireFields): ChatChoice {
  const message = fields(wire['message']);
  return {
    index: count(wire['index']),
    message: new ChatMessage({
      role: text(message['role']) ?? 'assistant',
      content: text(message['content']),
      functionCall: functionCallOf(message['function_call']),
    }),
    delta: null,
    finishReason: text(wire['finish_reason']),
  };
}

function chunkChoiceOf(wire: WireFields): ChunkChoice {
  const delta = fields(wire['delta']);
  return {
    index: count(wire['index']),
    delta: {
      role: text(delta['role']),
      content: text(delta['content']) ?? '',
      functionCall: functionCallOf(delta['function_call']),
    },
    finishReason: text(wire['finish_reason']),
  };
}

function functionCallOf(value: unknown): FunctionCall | null {
  const { name, arguments: given } = fields(value) as { name?: unknown; arguments?: unknown };
  return typeof name === 'string' ? { name, arguments: text(given) ?? '' } : null;
}

function usageOf(value: unknown): CompletionUsage | null {
  if (typeof value !== 'object' || value === null) return null;
  const wire = fields(value);
  return {
    completionTokens: count(wire['completion_tokens']),
    promptTokens: count(wire['prompt_tokens']),
    totalTokens: count(wire['total_tokens']),
  };
}

function usageJson(usage: CompletionUsage | null): WireFields | null {
  if (usage === null) return null;
  const { completionTokens, promptTokens, totalTokens } = usage;
  return { completion_tokens: completionTokens, prompt_tokens: promptTokens, total_tokens: totalTokens };
}
