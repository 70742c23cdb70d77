import type { OctomilError } from '@octomil/shared/errors';
import type { FinishReason, Said, TokenUsage } from '../engine/index.js';
import { shortId } from './heard-answer.js';
import type { GivenResponse } from './response-fields.js';

type Status = 'in_progress' | 'completed' | 'incomplete' | 'failed';
type Event = Readonly<Record<string, unknown>> & { readonly type: string };

interface MessageItem {
  readonly type: 'message';
  readonly id: string;
  text: string;
}
interface CallItem {
  readonly type: 'function_call';
  readonly id: string;
  readonly callId: string;
  readonly name: string;
  text: string;
}
type Item = MessageItem | CallItem;

/** One response as it grows: its items, and the events that tell of each change. */
export class ResponseWriter {
  readonly #id = `resp_${shortId()}${shortId()}`;
  readonly #body: GivenResponse;
  readonly #model: string;
  readonly #createdAt: number;
  readonly #items: Item[] = [];
  #sequence = 0;

  /** @param nowMs of its creation */
  constructor(body: GivenResponse, model: string, nowMs: number) {
    this.#body = body;
    this.#model = model;
    this.#createdAt = Math.floor(nowMs / 1_000);
  }

  begin(): string {
    const response = this.json('in_progress');
    return this.#events({ type: 'response.created', response }, { type: 'response.in_progress', response });
  }

  hear(said: Said): string {
    const last = this.#items.at(-1);
    if (said.type === 'arguments' && last?.type === 'function_call') {
      last.text += said.text;
      return this.#events({ type: 'response.function_call_arguments.delta', ...this.#place(), delta: said.text });
    }
    if (said.type === 'call') {
      const ended = this.#endItem('completed');
      const item: Item = {
        type: 'function_call',
        id: `fc_${shortId()}`,
        callId: `call_${shortId()}`,
        name: said.name,
        text: '',
      };
      this.#items.push(item);
      const added = { type: 'response.output_item.added', output_index: this.#items.length - 1 };
      return ended + this.#events({ ...added, item: itemJson(item, 'in_progress') });
    }
    const opened = last?.type === 'message' ? '' : this.#openMessage();
    const message = this.#items.at(-1);
    if (message !== undefined) message.text += said.text;
    const delta = {
      type: 'response.output_text.delta',
      ...this.#place(),
      content_index: 0,
      delta: said.text,
      logprobs: [],
    };
    return opened + this.#events(delta);
  }

  /** What is left to tell when the model has ended. An answer without a word has an empty message. */
  end(reason: FinishReason): string {
    const opened = this.#items.length === 0 ? this.#openMessage() : '';
    return opened + this.#endItem(reason === 'length' ? 'incomplete' : 'completed');
  }

  finish(reason: FinishReason, usage: TokenUsage, nowMs: number): string {
    const status = reason === 'length' ? 'incomplete' : 'completed';
    return this.#events({ type: `response.${status}`, response: this.json(status, { usage, nowMs }) });
  }

  fail(error: OctomilError): string {
    return this.#events({ type: 'response.failed', response: this.json('failed', { error }) });
  }

  json(
    status: Status,
    ended: { readonly usage?: TokenUsage; readonly nowMs?: number; readonly error?: OctomilError } = {},
  ): Record<string, unknown> {
    const { usage, nowMs, error } = ended;
    const body = this.#body;
    const last = this.#items.length - 1;
    return {
      id: this.#id,
      object: 'response',
      created_at: this.#createdAt,
      completed_at: status === 'completed' && nowMs !== undefined ? Math.floor(nowMs / 1_000) : null,
      status,
      background: false,
      error: error === undefined ? null : { code: 'server_error', message: error.reason },
      incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
      instructions: body.instructions ?? null,
      max_output_tokens: body.max_output_tokens ?? null,
      metadata: body.metadata ?? {},
      model: this.#model,
      output: this.#items.map((item, index) =>
        itemJson(item, index < last || status === 'completed' ? 'completed' : 'incomplete'),
      ),
      parallel_tool_calls: body.parallel_tool_calls ?? true,
      previous_response_id: null,
      reasoning: { effort: null, summary: null },
      // Whatever was asked: nothing is kept here.
      store: false,
      temperature: body.temperature ?? 0.7,
      text: { format: body.text?.format ?? { type: 'text' } },
      tool_choice: body.tool_choice ?? 'auto',
      tools: body.tools ?? [],
      top_p: body.top_p ?? 0.9,
      truncation: 'disabled',
      usage: usage === undefined ? null : usageJson(usage),
    };
  }

  #openMessage(): string {
    const item: Item = { type: 'message', id: `msg_${shortId()}`, text: '' };
    this.#items.push(item);
    const index = this.#items.length - 1;
    return this.#events(
      {
        type: 'response.output_item.added',
        output_index: index,
        item: { ...itemJson(item, 'in_progress'), content: [] },
      },
      { type: 'response.content_part.added', ...this.#place(), content_index: 0, part: partJson('') },
    );
  }

  #endItem(status: 'completed' | 'incomplete'): string {
    const item = this.#items.at(-1);
    if (item === undefined) return '';
    const place = this.#place();
    const done = {
      type: 'response.output_item.done',
      output_index: this.#items.length - 1,
      item: itemJson(item, status),
    };
    if (item.type === 'function_call') {
      const whole = { type: 'response.function_call_arguments.done', ...place, name: item.name, arguments: item.text };
      return this.#events(whole, done);
    }
    const at = { ...place, content_index: 0 };
    return this.#events(
      { type: 'response.output_text.done', ...at, text: item.text, logprobs: [] },
      { type: 'response.content_part.done', ...at, part: partJson(item.text) },
      done,
    );
  }

  /** Of the last item. */
  #place(): { readonly item_id: string; readonly output_index: number } {
    return { item_id: this.#items.at(-1)?.id ?? '', output_index: this.#items.length - 1 };
  }

  #events(...events: readonly Event[]): string {
    return events
      .map((event) => {
        const data = JSON.stringify({ ...event, sequence_number: this.#sequence });
        this.#sequence += 1;
        return `event: ${event.type}\ndata: ${data}\n\n`;
      })
      .join('');
  }
}

function itemJson(item: Item, status: 'in_progress' | 'completed' | 'incomplete'): Record<string, unknown> {
  const { type, id } = item;
  return type === 'message'
    ? { id, type, status, role: 'assistant', content: [partJson(item.text)] }
    : { id, type, status, call_id: item.callId, name: item.name, arguments: item.text };
}

function partJson(text: string): object {
  return { type: 'output_text', text, annotations: [], logprobs: [] };
}

function usageJson(usage: TokenUsage): object {
  return {
    input_tokens: usage.promptTokens,
    input_tokens_details: { cached_tokens: usage.cachedTokens },
    output_tokens: usage.completionTokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: usage.promptTokens + usage.completionTokens,
  };
}
