import { randomUUID } from 'node:crypto';
import type { Said, ToolCall } from '../engine/index.js';

/** What was heard of one answer: its text, and the functions that it calls. */
export class HeardAnswer {
  text = '';
  readonly #calls: { id: string; name: string; arguments: string }[] = [];

  get calls(): readonly ToolCall[] {
    return this.#calls;
  }

  /** Returns the call that it belongs to; undefined for text. */
  hear(said: Said): ToolCall | undefined {
    if (said.type === 'text') {
      this.text += said.text;
      return undefined;
    }
    if (said.type === 'call') this.#calls.push({ id: `call_${shortId()}`, name: said.name, arguments: '' });
    const call = this.#calls.at(-1);
    if (call !== undefined && said.type === 'arguments') call.arguments += said.text;
    return call;
  }
}

export function shortId(): string {
  return randomUUID().replaceAll('-', '').slice(0, 24);
}
