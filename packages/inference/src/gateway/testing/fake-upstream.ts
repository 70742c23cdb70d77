import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface FakeRequest {
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
  readonly headers: IncomingMessage['headers'];
}

export type FakeAnswer = (request: FakeRequest, response: ServerResponse) => void | Promise<void>;

/** A model server of a test: what it answers is up to the test, what it was asked is kept. */
export interface FakeUpstream {
  readonly url: string;
  readonly requests: FakeRequest[];
  /** Connections that clients closed before the answer was whole. */
  readonly aborted: number;
  answer: FakeAnswer;
  stop(): Promise<void>;
}

export async function startFakeUpstream(answer: FakeAnswer = ollamaAnswer(['Hello', ' world'])): Promise<FakeUpstream> {
  const requests: FakeRequest[] = [];
  let aborted = 0;
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    response.on('close', () => {
      if (!response.writableFinished) aborted += 1;
    });
    response.on('error', () => undefined);
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const text = Buffer.concat(parts).toString();
      const body = (text === '' ? {} : JSON.parse(text)) as Record<string, unknown>;
      const asked = { path: request.url ?? '', body, headers: request.headers };
      requests.push(asked);
      void fake.answer(asked, response);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const fake: FakeUpstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    get aborted() {
      return aborted;
    },
    answer,
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
  return fake;
}

export function json(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
}

export function ollamaLine(content: string): string {
  return `${JSON.stringify({ model: 'm', created_at: '2026-01-01T00:00:00Z', message: { role: 'assistant', content }, done: false })}\n`;
}

export const OLLAMA_END = `${JSON.stringify({ model: 'm', message: { role: 'assistant', content: '' }, done: true, done_reason: 'stop', prompt_eval_count: 7, eval_count: 2 })}\n`;

/** An Ollama that has the models `phi-4-mini` and `llama3:8b`, says `tokens` in chat and embeds by length. */
export function ollamaAnswer(tokens: readonly string[]): FakeAnswer {
  return ({ path, body }, response) => {
    if (path === '/api/version') return json(response, 200, { version: '0.12.0' });
    if (path === '/api/tags') return json(response, 200, { models: [{ name: 'phi-4-mini' }, { name: 'llama3:8b' }] });
    if (body['model'] !== 'phi-4-mini' && body['model'] !== 'llama3:8b') {
      return json(response, 404, { error: `model '${String(body['model'])}' not found` });
    }
    if (path === '/api/embed') {
      const inputs = body['input'] as string[];
      return json(response, 200, { embeddings: inputs.map((input) => [input.length, 1]), prompt_eval_count: 3 });
    }
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    for (const token of tokens) response.write(ollamaLine(token));
    response.end(OLLAMA_END);
  };
}

export function openAiEvent(fields: object): string {
  return `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', ...fields })}\n\n`;
}

/** An OpenAI-compatible server that has `gpt-oss` and `phi-4-mini`. */
export function openAiAnswer(tokens: readonly string[]): FakeAnswer {
  return ({ path, body }, response) => {
    if (path === '/v1/models') return json(response, 200, { data: [{ id: 'gpt-oss' }, { id: 'phi-4-mini' }] });
    if (body['model'] !== 'gpt-oss' && body['model'] !== 'phi-4-mini') {
      return json(response, 404, { error: { message: 'no such model', code: 'model_not_found' } });
    }
    if (path === '/v1/embeddings') {
      const inputs = body['input'] as string[];
      const data = inputs.map((input, index) => ({ index, embedding: [input.length, 2] })).reverse();
      return json(response, 200, { data, usage: { prompt_tokens: 4, total_tokens: 4 } });
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(': comment\n\n');
    response.write(openAiEvent({ choices: [{ index: 0, delta: { role: 'assistant', content: '' } }] }));
    for (const content of tokens) response.write(openAiEvent({ choices: [{ index: 0, delta: { content } }] }));
    response.write(openAiEvent({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }));
    response.write(openAiEvent({ choices: [], usage: { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 } }));
    response.end('data: [DONE]\n\n');
  };
}
