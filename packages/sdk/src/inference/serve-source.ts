import { chatCompletionChunks, choicesOf, type Endpoint, listedModels } from './chat-completions.js';
import { type GenerationQuery, wireParameters } from './request.js';
import type { TextSource } from './text-source.js';
import { fieldsOf, finishReasonOf, type GenerationEnd, type GenerationPiece, numberOf, textOf } from './text-source.js';

/** A model of an `octomil serve` on this machine. */
export class ServeSource implements TextSource {
  readonly #endpoint: Endpoint;
  readonly #model: string;

  constructor(endpoint: Endpoint, model: string) {
    this.#endpoint = endpoint;
    this.#model = model;
  }

  async *pieces(query: GenerationQuery, signal: AbortSignal): AsyncGenerator<GenerationPiece, void, undefined> {
    const body = {
      model: this.#model,
      messages: query.messages,
      ...wireParameters(query.parameters),
      stream_options: { include_usage: true },
    };
    let end: GenerationEnd = { provider: 'octomil serve' };
    for await (const chunk of chatCompletionChunks(this.#endpoint, body, signal)) {
      const [choice] = choicesOf(chunk);
      const text = textOf(fieldsOf(choice?.['delta'])['content']);
      if (text !== undefined && text !== '') yield { type: 'text', text };
      const usage = fieldsOf(chunk['usage']);
      end = {
        ...end,
        finishReason: finishReasonOf(choice?.['finish_reason']) ?? end.finishReason,
        promptTokens: numberOf(usage['prompt_tokens']) ?? end.promptTokens,
        completionTokens: numberOf(usage['completion_tokens']) ?? end.completionTokens,
      };
    }
    yield { type: 'done', ...end };
  }
}

export const DEFAULT_LOCAL_URL = 'http://127.0.0.1:8080';
/** Where nobody listens, that is known at once: this is for a server that is busy. One that was named is worth more. */
const PROBE_TIMEOUT_MS = 2_000;
const NAMED_PROBE_TIMEOUT_MS = 10_000;
const KEPT_MS = 15_000;
/** A server of several models chooses among them by the question. */
const AUTO = 'auto';

/** Which models a server on this machine has. Asked again after 15 seconds, and never a reason to fail. */
export class LocalServer {
  readonly endpoint: Endpoint;
  readonly url: string;
  readonly #isDefault: boolean;
  readonly #nowMs: () => number;
  #asked: { readonly untilMs: number; readonly names: Promise<readonly string[] | string> } | undefined;

  /** @param url undefined looks at {@link DEFAULT_LOCAL_URL}, where somebody else's server may be listening */
  constructor(endpoint: Omit<Endpoint, 'baseUrl'>, url: string | undefined, nowMs: () => number) {
    this.#isDefault = url === undefined;
    this.url = (url ?? DEFAULT_LOCAL_URL).replace(/\/+$/, '').replace(/\/v1$/, '');
    // One that is full or broken is left for another place rather than asked again.
    this.endpoint = { ...endpoint, baseUrl: `${this.url}/v1`, maxAttempts: 1 };
    this.#nowMs = nowMs;
  }

  /** @returns true, or why it has no such model */
  async offers(model: string): Promise<true | string> {
    const nowMs = this.#nowMs();
    if (this.#asked === undefined || nowMs >= this.#asked.untilMs) {
      this.#asked = { untilMs: nowMs + KEPT_MS, names: this.#ask() };
    }
    const names = await this.#asked.names;
    if (typeof names === 'string') return names;
    return (
      names.includes(model) || (model === AUTO && names.length > 0) || `the server at ${this.url} has no such model`
    );
  }

  async #ask(): Promise<readonly string[] | string> {
    try {
      const models = await listedModels(this.endpoint, {
        timeoutMs: this.#isDefault ? PROBE_TIMEOUT_MS : NAMED_PROBE_TIMEOUT_MS,
      });
      const ours = models.filter((model) => !this.#isDefault || model['owned_by'] === 'octomil');
      if (models.length > 0 && ours.length === 0) return `what listens at ${this.url} is no octomil serve`;
      return ours.flatMap(({ id }) => (typeof id === 'string' ? [id] : []));
    } catch {
      return `no octomil serve answers at ${this.url}`;
    }
  }
}
