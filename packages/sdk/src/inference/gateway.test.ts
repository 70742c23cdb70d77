import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Client } from '../client.js';
import { OctomilClientError } from '../client-error.js';
import { FakeCoordinator } from '../testing/fake-coordinator.js';
import { embed, streamInference } from './standalone.js';

let coordinator: FakeCoordinator;
let client: Client;
beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
  const { apiBase, timing } = coordinator;
  client = new Client({ apiKey: 'edg_x', apiBase, timing, route: 'cloud' });
});
afterEach(() => coordinator.stop());

const messages = [{ role: 'user', content: 'Summarize this report.' }] as const;
const tokens = (...parts: string[]): string =>
  parts
    .map(
      (token) =>
        `data: ${JSON.stringify({ token, done: false, provider: 'ollama', latency_ms: 3, session_id: 's1' })}\n\n`,
    )
    .join('');
const DONE = `data: ${JSON.stringify({
  token: '',
  done: true,
  provider: 'ollama',
  latency_ms: 9,
  session_id: 's1',
  finish_reason: 'length',
  usage: { prompt_tokens: 4, completion_tokens: 2 },
})}\n\n`;

async function failure(work: Promise<unknown>): Promise<OctomilClientError> {
  const thrown = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (thrown instanceof OctomilClientError) return thrown;
  throw new TypeError(`expected an OctomilClientError, not ${String(thrown)}`);
}

async function read<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const one of stream) all.push(one);
  return all;
}

test('one answer: the wire by its names, the result as text, with what it cost', async () => {
  coordinator.json(200, {
    output: 'In short.',
    latency_ms: 12,
    provider: 'ollama',
    model_id: 'phi-4-mini',
    finish_reason: 'stop',
    session_id: 's7',
    usage: { prompt_tokens: 5, completion_tokens: 3, total_tokens: 8 },
  });
  const result = await client.predict('phi-4-mini', {
    messages,
    maxTokens: 256,
    temperature: 0.7,
    topP: 1,
    stop: 'END',
    responseFormat: { type: 'json_schema', name: 'Answer', schema: { type: 'object' } },
  });
  expect(`${result}`).toBe('In short.');
  expect(result).toMatchObject({
    model: 'phi-4-mini',
    finishReason: 'stop',
    metrics: {
      route: { target: 'cloud', engine: 'gateway', passedOver: [] },
      sessionId: 's7',
      provider: 'ollama',
      promptTokens: 5,
      completionTokens: 3,
      timeToFirstChunkMs: undefined,
    },
  });
  const [request] = coordinator.requests;
  expect(request?.path).toBe('/api/v1/inference');
  // A generation is a new one each time: no key under which an old answer would come back.
  expect(request?.headers['idempotency-key']).toBeUndefined();
  expect(JSON.parse(request?.body ?? '')).toEqual({
    model_id: 'phi-4-mini',
    messages,
    parameters: {
      max_tokens: 256,
      temperature: 0.7,
      top_p: 1,
      stop: ['END'],
      response_format: {
        type: 'json_schema',
        json_schema: { name: 'Answer', schema: { type: 'object' }, strict: true },
      },
    },
  });
});

test('a version is asked for as a tag of the name', async () => {
  coordinator.json(200, { output: 'x', provider: 'ollama' });
  await client.predict('phi-4-mini', { input: 'hi', version: '1.0.0' });
  expect(JSON.parse(coordinator.requests[0]?.body ?? '')).toMatchObject({
    model_id: 'phi-4-mini:1.0.0',
    messages: [{ role: 'user', content: 'hi' }],
  });
});

test('tokens as they come, in pieces of any size, comments between them', async () => {
  const text = `: ping\n\n${tokens('Cherry', ' blössoms')}: ping\n\n${DONE}`;
  coordinator.next((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    // Cut within a character and within an event.
    const bytes = Buffer.from(text);
    const at = bytes.indexOf(0xc3) + 1;
    response.write(bytes.subarray(0, at), () => response.end(bytes.subarray(at)));
  });
  const parameters = { temperature: 0.8, maxTokens: 64 };
  const all = await read(client.streamPredict('phi-4-mini', messages, { parameters }));
  expect(all).toEqual([
    { token: 'Cherry', done: false, provider: 'ollama', latencyMs: 3, sessionId: 's1' },
    { token: ' blössoms', done: false, provider: 'ollama', latencyMs: 3, sessionId: 's1' },
    { token: '', done: true, provider: 'ollama', latencyMs: 9, sessionId: 's1' },
  ]);
  expect(JSON.parse(coordinator.requests[0]?.body ?? '')).toMatchObject({
    parameters: { temperature: 0.8, max_tokens: 64 },
  });
});

test.each([
  ['the connection is cut', true, tokens('Cherry')],
  ['the stream ends without its last token', false, tokens('Cherry')],
  ['it holds nothing', false, ': ping\n\n'],
])('%s: stream_interrupted, never an end that looks like one', async (_name, cut, text) => {
  coordinator.events(text, cut);
  const seen: string[] = [];
  const error = await failure(
    (async () => {
      for await (const { token } of client.streamPredict('m', 'hi')) seen.push(token);
    })(),
  );
  expect(error).toMatchObject({ code: 'stream_interrupted', retryable: true });
  expect(seen.join('')).toBe(text.includes('Cherry') ? 'Cherry' : '');
});

test('an error in the stream has its own code', async () => {
  const error = { code: 'inference_failed', message: 'the model server died', details: { provider: 'ollama' } };
  coordinator.events(`${tokens('a')}event: error\ndata: ${JSON.stringify({ token: '', done: false, error })}\n\n`);
  expect(await failure(read(client.streamPredict('m', 'hi')))).toMatchObject({
    code: 'inference_failed',
    reason: 'the model server died',
    details: { provider: 'ollama' },
  });
});

test('an event without end is cut off instead of kept', async () => {
  coordinator.events(`${tokens('a')}data: ${'x'.repeat(2 * 1024 * 1024)}`);
  expect(await failure(read(client.streamPredict('m', 'hi')))).toMatchObject({ code: 'stream_interrupted' });
});

test('a stream that falls silent times out, keep-alive or not', async () => {
  const alive: NodeJS.Timeout[] = [];
  coordinator.next((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(tokens('a'));
    alive.push(setInterval(() => response.write(': ping\n\n'), 5));
  });
  try {
    const error = await failure(read(client.streamPredict('m', 'hi', { timeoutMs: 60 })));
    expect(error).toMatchObject({ code: 'request_timeout' });
  } finally {
    for (const timer of alive) clearInterval(timer);
  }
});

test('a caller that leaves, or cancels, closes the connection', async () => {
  const closed: Promise<void>[] = [];
  const endless = (): void => {
    coordinator.next((_request, response) => {
      closed.push(new Promise((resolve) => response.on('close', resolve)));
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write(tokens('a'));
    });
  };
  endless();
  for await (const { token } of client.streamPredict('m', 'hi')) {
    expect(token).toBe('a');
    break;
  }
  endless();
  const cancel = new AbortController();
  const cancelled = failure(
    (async () => {
      for await (const _ of client.streamPredict('m', 'hi', { signal: cancel.signal })) cancel.abort();
    })(),
  );
  expect(await cancelled).toMatchObject({ code: 'cancelled' });
  await Promise.all(closed);
  expect(closed).toHaveLength(2);
});

test('before the first token nothing is hidden either: the status, its code, cancelled before it began', async () => {
  coordinator.json(404, { code: 'model_not_found', message: 'no model "ph"; near: phi-4-mini' });
  expect(await failure(read(client.streamPredict('ph', 'hi')))).toMatchObject({
    code: 'model_not_found',
    status: 404,
    reason: 'no model "ph"; near: phi-4-mini',
  });
  coordinator.json(413, { code: 'context_too_large', message: '9000 tokens do not fit 4096' });
  expect(await failure(client.predict('m', { input: 'long' }))).toMatchObject({ code: 'context_too_large' });
  const requests = coordinator.requests.length;
  const signal = AbortSignal.abort();
  expect(await failure(client.predict('m', { input: 'x', signal }))).toMatchObject({ code: 'cancelled' });
  expect(await failure(read(client.streamPredict('m', 'x', { signal })))).toMatchObject({ code: 'cancelled' });
  expect(coordinator.requests).toHaveLength(requests);
});

test('a full gateway is asked again after the time it names, a broken answer is not', async () => {
  coordinator.json(429, { code: 'rate_limited', message: 'full' }, { 'retry-after': '2' });
  coordinator.json(200, { output: 'now', provider: 'ollama' });
  expect(String(await client.predict('m', { input: 'x' }))).toBe('now');
  expect(coordinator.waitsMs).toEqual([2000]);
  coordinator.next((request, response) => {
    expect(request.path).toBe('/api/v1/inference');
    response.destroy();
  });
  expect(await failure(client.predict('m', { input: 'x' }))).toMatchObject({ code: 'network_unavailable' });
});

test.each([
  ['maxTokens', { input: 'x', maxTokens: -1 }],
  ['maxTokens', { input: 'x', maxTokens: 1.5 }],
  ['temperature', { input: 'x', temperature: Number.NaN }],
  ['temperature', { input: 'x', temperature: '1' as unknown as number }],
  ['topP', { input: 'x', topP: 0 }],
  ['seed', { input: 'x', seed: 0.1 }],
  ['stop', { input: 'x', stop: [''] }],
  ['messages', { messages: [] }],
  ['messages[0].role', { messages: [{ role: 'robot' as 'user', content: 'x' }] }],
  ['messages[0].content', { messages: [{ role: 'user' as const, content: 7 as unknown as string }] }],
  ['input', { input: '' }],
  ['messages', {}],
  ['messages', { input: 'x', messages: 'y' }],
])('%s is checked before anything is sent: %j', async (field, options) => {
  expect(await failure(client.predict('m', options))).toMatchObject({ code: 'invalid_input', details: { field } });
  expect(coordinator.requests).toEqual([]);
});

test('vectors in the order of their texts, however they come', async () => {
  const row = (index: number): object => ({ object: 'embedding', index, embedding: [index, 0.5] });
  coordinator.json(200, {
    data: [row(2), row(0), row(1)],
    model: 'nomic-embed-text',
    usage: { prompt_tokens: 9, total_tokens: 9 },
  });
  const input = ['a', 'b', 'c'];
  expect(await client.embed({ modelId: 'nomic-embed-text', input, timeoutMs: 30_000 })).toEqual({
    embeddings: [
      [0, 0.5],
      [1, 0.5],
      [2, 0.5],
    ],
    model: 'nomic-embed-text',
    usage: { promptTokens: 9, totalTokens: 9 },
  });
  expect(JSON.parse(coordinator.requests[0]?.body ?? '')).toEqual({ model_id: 'nomic-embed-text', input });
  coordinator.json(200, { data: [row(0)] });
  expect(await failure(client.embed({ modelId: 'm', input }))).toMatchObject({ code: 'inference_failed' });
  expect(await failure(client.embed({ modelId: 'm', input: [] }))).toMatchObject({ code: 'invalid_input' });
});

test('the functions that need no client', async () => {
  const access = { serverUrl: coordinator.apiBase, apiKey: 'edg_y' };
  coordinator.events(`${tokens('Hi')}${DONE}`);
  const inputData = [{ role: 'user', content: 'Hello' }] as const;
  const all = await read(streamInference({ ...access, modelId: 'm', inputData, parameters: { temperature: 0.7 } }));
  expect(all.map(({ token }) => token).join('')).toBe('Hi');
  coordinator.json(200, { data: [{ index: 0, embedding: [1] }], model: 'm' });
  expect((await embed({ ...access, modelId: 'm', input: 'hello' })).embeddings).toEqual([[1]]);
  expect(coordinator.requests.map(({ headers }) => headers['authorization'])).toEqual(['Bearer edg_y', 'Bearer edg_y']);
});
