import type { WireFields } from './wire.js';

export interface FunctionCall {
  readonly name: string;
  /** JSON. */
  readonly arguments: string;
}

/** A turn of a conversation. Anything with its fields will do where one is asked for. */
export class ChatMessage {
  readonly role: 'system' | 'user' | 'assistant' | 'tool' | (string & {});
  readonly content: string | null;
  readonly functionCall: FunctionCall | null;

  constructor(fields: {
    readonly role: ChatMessage['role'];
    readonly content: string | null;
    readonly functionCall?: FunctionCall | null;
  }) {
    this.role = fields.role;
    this.content = fields.content;
    this.functionCall = fields.functionCall ?? null;
  }

  toJSON(): WireFields {
    return { role: this.role, content: this.content, function_call: this.functionCall };
  }
}
