import { OctomilClientError } from '../client-error.js';
import { type ClientOptions, environmentVariable, plainTextWarning } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import { chatCompletion, chatCompletionChunks, type Endpoint } from '../inference/chat-completions.js';
import { DEFAULT_TIMEOUT_MS } from '../inference/request.js';
import { eachWithinTime, withinTime } from '../inference/waiting.js';
import { ChatCompletionChunk, ChatCompletionResponse } from './chat-completion.js';
import { type ChatCompletionRequest, type ChatCompletionStreamRequest, requestBody } from './chat-request.js';

/** An `octomil serve` on this machine. */
export const DEFAULT_OCTOAI_BASE = 'http://127.0.0.1:8080/v1';

export interface OctoAIOptions extends Pick<ClientOptions, 'maxAttempts' | 'onWarning' | 'fetch' | 'timing'> {
  /** Default: `OCTOAI_TOKEN`. None is sent where there is none: a server on the same machine asks for none. */
  readonly apiKey?: string | undefined;
  /**
   * Of anything that speaks OpenAI's protocol, ending in `/v1`. Default: `OCTOAI_API_BASE`, else
   * {@link DEFAULT_OCTOAI_BASE}.
   */
  readonly apiBase?: string | undefined;
  /** Default 120 000, for a whole answer and for each next piece of a streamed one; a request may say otherwise. */
  readonly timeoutMs?: number | undefined;
}

/**
 * Text generation as the OctoAI SDK has it.
 *
 * ```ts
 * const client = new OctoAI();
 * const completion = await client.textGen.createChatCompletion({
 *   model: 'meta-llama-3-8b-instruct',
 *   messages: [new ChatMessage({ role: 'user', content: 'Write a blog about Seattle' })],
 *   maxTokens: 150,
 * });
 * console.log(JSON.stringify(completion, null, 2));
 * ```
 */
export class OctoAI {
  readonly textGen: TextGen;

  /** @throws OctomilClientError `invalid_input` for a base that is no http(s) URL, `invalid_api_key` for what is no token */
  constructor(options: OctoAIOptions = {}) {
    const { apiKey = environmentVariable('OCTOAI_TOKEN'), timeoutMs, apiBase, ...rest } = options;
    const base = apiBase ?? environmentVariable('OCTOAI_API_BASE') ?? DEFAULT_OCTOAI_BASE;
    const http = new HttpClient({ ...rest, apiBase: base, apiKey: apiKey ?? 'none' });
    if (apiKey !== undefined) {
      const warning = plainTextWarning(http.apiBase);
      if (warning !== undefined) http.warn(warning);
    }
    this.textGen = new TextGen(
      { http, baseUrl: http.apiBase, apiKey: apiKey?.trim() },
      timeoutMs ?? DEFAULT_TIMEOUT_MS,
    );
  }
}

export class TextGen {
  readonly #endpoint: Endpoint;
  readonly #timeoutMs: number;

  constructor(endpoint: Endpoint, timeoutMs: number) {
    this.#endpoint = endpoint;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * @throws OctomilClientError `invalid_input`, `authentication_failed`, `model_not_found`, `context_too_large`,
   * `rate_limited`, `inference_failed`, `network_unavailable`, `request_timeout`, `cancelled`
   */
  async createChatCompletion(request: ChatCompletionRequest): Promise<ChatCompletionResponse> {
    const body = requestBody(request);
    return withinTime(this.#limits(request), async (signal) => {
      const answer = await chatCompletion(this.#endpoint, body, signal);
      if (!Array.isArray(answer['choices'])) {
        const reason = `${this.#endpoint.baseUrl} answered without choices; does it speak OpenAI's protocol?`;
        throw new OctomilClientError('inference_failed', reason);
      }
      return new ChatCompletionResponse(answer);
    });
  }

  /**
   * Asks when it is iterated; leaving the loop ends the generation.
   *
   * @throws OctomilClientError as `createChatCompletion`, and `stream_interrupted` when the stream breaks off
   */
  createChatCompletionStream(
    request: ChatCompletionStreamRequest,
  ): AsyncGenerator<ChatCompletionChunk, void, undefined> {
    const body = requestBody(request);
    return eachWithinTime(this.#limits(request), (signal) => chunks(this.#endpoint, body, signal));
  }

  #limits({ timeoutMs = this.#timeoutMs, signal }: ChatCompletionRequest): {
    timeoutMs: number;
    signal: AbortSignal | undefined;
  } {
    return { timeoutMs, signal };
  }
}

async function* chunks(
  endpoint: Endpoint,
  body: Readonly<Record<string, unknown>>,
  signal: AbortSignal,
): AsyncGenerator<ChatCompletionChunk, void, undefined> {
  for await (const chunk of chatCompletionChunks(endpoint, body, signal)) yield new ChatCompletionChunk(chunk);
}
