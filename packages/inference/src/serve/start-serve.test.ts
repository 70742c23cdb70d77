import { request as httpRequest } from 'node:http';
import { afterEach, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { OpenAI } from 'openai';
import type { GenerationEngine } from '../engine/index.js';
import { type Serve, type ServeOptions, startServe } from './start-serve.js';
import { SlowEngine } from './testing/slow-engine.js';
import { TalkativeEngine } from './testing/talkative-engine.js';

const started: Serve[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((server) => server.stop()));
});

async function serve(
  engines: Readonly<Record<string, GenerationEngine>>,
  options: Partial<ServeOptions> = {},
): Promise<{ url: string; client: OpenAI }> {
  const models = Object.fromEntries(
    Object.entries(engines).map(([name, { description }]) => [
      name,
      { path: name, parallelSequences: description.parallelSequences },
    ]),
  );
  const server = await startServe({
    models,
    port: 0,
    openEngine: ({ path }) => engines[path] ?? new SlowEngine(1),
    ...options,
  });
  started.push(server);
  return { url: server.url, client: new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 }) };
}

async function post(url: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
}

const messages = [{ role: 'user' as const, content: 'Tell me about the sea' }];
const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
};

test('documented defaults reach the engine, and seeds count up over the answers', async () => {
  const engine = new SlowEngine(4);
  engine.release();
  const { client } = await serve({ slow: engine });
  const { data, response } = await client.chat.completions
    .create({ model: 'slow', messages, n: 3, seed: 7, stop: 'END' })
    .withResponse();
  expect(data.choices.map(({ index, message }) => [index, message.content])).toEqual([
    [0, 'first last'],
    [1, 'first last'],
    [2, 'first last'],
  ]);
  // One prompt, three answers.
  expect(data.usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 6, total_tokens: 9 });
  expect(response.headers.get('x-request-id')).toBeTruthy();
  for (const name of ['routed-model', 'speculative', 'compression', 'early-exit-tokens', 'fallback']) {
    expect(response.headers.get(`x-octomil-${name}`)).toBeNull();
  }
  expect(engine.asked.map(({ seed, temperature, topP, stop }) => ({ seed, temperature, topP, stop }))).toEqual(
    [7, 8, 9].map((seed) => ({ seed, temperature: 0.7, topP: 0.9, stop: ['END'] })),
  );
});

test('a stream has a role, pieces, an end and, when asked for, usage', async () => {
  const engine = new SlowEngine(1);
  engine.release();
  const { client, url } = await serve({ slow: engine });
  const chunks = [];
  const stream = await client.chat.completions.create({
    model: 'slow',
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) chunks.push(chunk);
  expect(chunks.map(({ choices: [choice] }) => choice?.delta.content ?? choice?.finish_reason ?? null)).toEqual([
    '',
    'first ',
    'last',
    'stop',
    null,
  ]);
  expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant');
  expect(chunks.at(-1)?.usage).toMatchObject({ prompt_tokens: 3, prompt_tokens_details: { cached_tokens: 1 } });
  const plain = await (await post(`${url}/v1/chat/completions`, { model: 'slow', messages, stream: true })).text();
  expect(plain).not.toContain('usage');
  expect(plain.trim().split('\n\n').at(-1)).toBe('data: [DONE]');
});

test.each([
  ['{"model": "slow"', null, 400],
  [{ model: 'slow' }, 'messages', 400],
  [{ model: 'slow', messages: [] }, 'messages', 400],
  [{ messages }, 'model', 400],
  [{ model: 'slow', messages, temperature: -1 }, 'temperature', 400],
  [{ model: 'slow', messages, temperature: 'warm' }, 'temperature', 400],
  [{ model: 'slow', messages, top_p: 2 }, 'top_p', 400],
  [{ model: 'slow', messages, max_tokens: 0 }, 'max_tokens', 400],
  [{ model: 'slow', messages, max_tokens: 1.5 }, 'max_tokens', 400],
  [{ model: 'slow', messages, n: 0 }, 'n', 400],
  [{ model: 'slow', messages, n: 3 }, 'n', 400],
  [{ model: 'slow', messages, n: 2 ** 50 }, 'n', 400],
  [{ model: 'slow', messages: [{ role: 'constructor', content: 'x' }] }, 'messages.0.role', 400],
  [{ model: 'slow', messages, stop: [''] }, 'stop', 400],
  [{ model: 'slow', messages, tools: [{}] }, 'tools.0.type', 400],
  [{ model: 'slow', messages, logprobs: true }, 'logprobs', 400],
  [{ model: 'slow', messages, response_format: { type: 'xml' } }, 'response_format.type', 400],
  [
    {
      model: 'slow',
      messages,
      response_format: { type: 'json_schema', json_schema: { name: 'a', schema: { type: 'string', pattern: 'a' } } },
    },
    'response_format',
    400,
  ],
  [{ model: 'slow', messages, response_format: { type: 'json_object' }, stop: 'x' }, 'stop', 400],
  [{ model: 'slo', messages }, 'model', 404],
])('%j is refused with the field %s', async (body, param, status) => {
  const engine = new SlowEngine(2);
  const { url } = await serve({ slow: engine });
  const response = await post(`${url}/v1/chat/completions`, body);
  const answer = (await response.json()) as { error: { message: string; param: string | null }; message: string };
  expect({ status: response.status, param: param === null ? null : answer.error.param }).toEqual({ status, param });
  expect(answer.message).toBe(answer.error.message);
  if (status === 404) expect(answer.error.message).toContain('slow');
  expect(engine.asked).toEqual([]);
});

test('when as many wait as may, the next is told at once when to come back', async () => {
  const engine = new SlowEngine(1);
  const { client, url } = await serve({ slow: engine }, { maxQueueDepth: 2 });
  const ask = (): Promise<unknown> =>
    client.chat.completions.create({ model: 'slow', messages }).then(
      () => 'answered',
      (error: unknown) => error,
    );
  const accepted = [ask(), ask(), ask()];
  const stats = async (): Promise<unknown> => (await fetch(`${url}/v1/queue/stats`)).json();
  while (((await stats()) as { pending: number }).pending < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  const refused = await ask();
  expect(refused).toBeInstanceOf(OpenAI.RateLimitError);
  expect((refused as { headers: Headers }).headers.get('retry-after')).toBe('1');
  expect(await stats()).toMatchObject({ pending: 2, active: 1, max_depth: 2, enabled: true });
  const streamed = await post(`${url}/v1/chat/completions`, { model: 'slow', messages, stream: true });
  expect(streamed.status).toBe(429);
  await streamed.text();
  engine.release();
  expect(await Promise.all(accepted)).toEqual(['answered', 'answered', 'answered']);
});

test('a client that leaves ends its generation: streaming, waiting for a whole answer, and waiting in the queue', async () => {
  const engine = new SlowEngine(2);
  const { client, url } = await serve({ slow: engine });
  const stream = await client.chat.completions.create({ model: 'slow', messages, stream: true });
  await stream[Symbol.asyncIterator]().next();
  const whole = new AbortController();
  const asking = client.chat.completions.create({ model: 'slow', messages }, { signal: whole.signal });
  await until(() => engine.running === 2);
  const queued = new AbortController();
  const waiting = client.chat.completions.create({ model: 'slow', messages }, { signal: queued.signal });
  const pending = async (count: number): Promise<void> => {
    const stats = (await (await fetch(`${url}/v1/queue/stats`)).json()) as { pending: number };
    if (stats.pending !== count) await pending(count);
  };
  await pending(1);
  queued.abort();
  await expect(waiting).rejects.toThrow();
  await pending(0);
  whole.abort();
  await expect(asking).rejects.toThrow();
  stream.controller.abort();
  await until(() => engine.aborted === 2 && engine.running === 0);
  expect(engine.asked).toHaveLength(2);
});

test.each([
  ['/v1/chat/completions', { messages }],
  ['/v1/completions', { prompt: 'the sea' }],
  ['/v1/responses', { input: 'the sea' }],
  ['/api/chat', { messages }],
])(
  '%s: a reader that leaves while it is waited for frees its place, though the engine had more to say',
  async (path, asked) => {
    const engine = new TalkativeEngine();
    const { url } = await serve({ slow: engine });
    const request = httpRequest(`${url}${path}`, { method: 'POST', headers: { 'content-type': 'application/json' } });
    request.on('error', () => undefined);
    // Never read: the engine is held back as soon as the buffers in between are full.
    request.on('response', (response) => response.pause());
    request.end(JSON.stringify({ model: 'slow', stream: true, ...asked }));
    await until(() => engine.isHeldBack);
    request.destroy();
    await until(() => engine.ended === 1);
    expect((await (await fetch(`${url}/v1/queue/stats`)).json()) as object).toMatchObject({ active: 0, pending: 0 });
  },
);

test("pictures that Ollama's clients send are refused, not left out", async () => {
  const { url } = await serve({ slow: new SlowEngine(1) });
  const asked = { model: 'slow', prompt: 'what is it?', images: ['aGk='] };
  const refused = [
    await post(`${url}/api/generate`, asked),
    await post(`${url}/api/chat`, { model: 'slow', messages: [{ role: 'user', content: 'it?', images: ['aGk='] }] }),
  ];
  expect(await Promise.all(refused.map(async (response) => [response.status, await response.json()]))).toEqual([
    [422, { error: 'images holds pictures; only text is read' }],
    [422, { error: 'messages.0.images holds pictures; only text is read' }],
  ]);
});

test('what fails before the first word has its status; afterwards it is an event', async () => {
  const engine = new SlowEngine(1);
  const { client, url } = await serve({ slow: engine });
  engine.failure = new OctomilError('context_too_large', 'the prompt has 200 tokens; the context holds 100');
  const refused = await client.chat.completions
    .create({ model: 'slow', messages, stream: true })
    .catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(OpenAI.BadRequestError);
  expect(refused).toMatchObject({ code: 'context_length_exceeded' });
  engine.failure = new OctomilError('model_load_failed', 'it was cut short', { retryAfterSeconds: 4 });
  const unavailable = await post(`${url}/v1/chat/completions`, { model: 'slow', messages });
  expect([unavailable.status, unavailable.headers.get('retry-after')]).toEqual([503, '4']);
  expect(await unavailable.json()).toMatchObject({ retryable: false, error: { message: 'it was cut short' } });
});

test('"auto" answers sums itself, sends questions to a model, and falls back to the next while nothing was said', async () => {
  const [small, large] = [new SlowEngine(1), new SlowEngine(1)];
  small.release();
  large.release();
  const { client, url } = await serve({ small, large });
  const sum = await client.chat.completions
    .create({ model: 'auto', messages: [{ role: 'user', content: 'what is 12 * 12?' }] })
    .withResponse();
  expect(sum.data.choices[0]?.message.content).toBe('144');
  expect(sum.response.headers.get('x-octomil-routed-model')).toBe('deterministic');
  expect(small.asked.length + large.asked.length).toBe(0);
  const asJson = await client.chat.completions
    .create({
      model: 'auto',
      messages: [{ role: 'user', content: 'what is 12 * 12?' }],
      response_format: { type: 'json_object' },
    })
    .withResponse();
  expect(['small', 'large']).toContain(asJson.response.headers.get('x-octomil-routed-model'));
  const hello = await client.chat.completions
    .create({ model: 'auto', messages: [{ role: 'user', content: 'hi' }] })
    .withResponse();
  expect(hello.response.headers.get('x-octomil-routed-model')).toBe('small');
  small.failure = new OctomilError('model_load_failed', 'gone');
  for (const stream of [false, true]) {
    const answer = await post(`${url}/v1/chat/completions`, {
      model: 'auto',
      messages: [{ role: 'user', content: 'hi' }],
      stream,
    });
    expect(answer.headers.get('x-octomil-routed-model')).toBe('large');
    expect(answer.headers.get('x-octomil-fallback')).toBe('true');
    expect(await answer.text()).toContain('"model":"large"');
  }
  const named = await post(`${url}/v1/chat/completions`, { model: 'small', messages });
  expect(named.status).toBe(503);
  expect(await (await fetch(`${url}/v1/routing/stats`)).json()).toMatchObject({ fallback_count: 2 });
});

test('completions and embeddings have the shapes of OpenAI', async () => {
  const engine = new SlowEngine(4);
  engine.release();
  const { client, url } = await serve({ slow: engine });
  const text = await client.completions.create({ model: 'slow', prompt: ['a', 'b'], max_tokens: 5 });
  expect(text.choices.map((choice) => choice.text)).toEqual(['first last', 'first last']);
  expect(engine.asked.map(({ input, maxTokens }) => ({ input, maxTokens }))).toEqual([
    { input: { prompt: 'a' }, maxTokens: 5 },
    { input: { prompt: 'b' }, maxTokens: 5 },
  ]);
  // The client asks for base64 by itself.
  const vectors = await client.embeddings.create({ model: 'slow', input: ['x', 'y'] });
  expect(vectors.data.map(({ embedding }) => embedding.map((value) => Math.round(value * 10)))).toEqual([
    [0, 1],
    [10, 1],
  ]);
  const floats = await client.embeddings.create({ model: 'slow', input: 'x', encoding_format: 'float' });
  expect(floats.data[0]?.embedding[1]).toBeCloseTo(0.1);
  expect((await post(`${url}/v1/embeddings`, { model: 'slow', input: '' })).status).toBe(400);
  expect((await client.models.list()).data.map(({ id }) => id)).toEqual(['slow']);
  expect((await client.models.retrieve('slow')).owned_by).toBe('octomil');
  await expect(client.models.retrieve('none')).rejects.toBeInstanceOf(OpenAI.NotFoundError);
});

test('only who addresses this machine is answered, and no page of another origin', async () => {
  const { url } = await serve({ slow: new SlowEngine(1) }, { corsOrigins: ['https://mine.example'] });
  const status = (host: string): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      httpRequest(`${url}/health`, { headers: { host } }, (response) => {
        response.resume();
        resolve(response.statusCode);
      })
        .on('error', reject)
        .end();
    });
  expect(await status('attacker.example')).toBe(403);
  expect(await status('localhost:1234')).toBe(200);
  expect(await status('[::1]:8080')).toBe(200);
  const origin = (name: string): Promise<string | null> =>
    fetch(`${url}/health`, { headers: { origin: name } }).then((response) =>
      response.headers.get('access-control-allow-origin'),
    );
  expect([await origin('https://other.example'), await origin('https://mine.example')]).toEqual([
    null,
    'https://mine.example',
  ]);
  const plain = await fetch(`${url}/v1/chat/completions`, { method: 'POST', body: '{}' });
  expect(plain.status).toBe(400);
  const preflight = await fetch(`${url}/v1/chat/completions`, {
    method: 'OPTIONS',
    headers: { origin: 'https://mine.example', 'access-control-request-method': 'POST' },
  });
  expect(preflight.status).toBe(204);
});

test('where others reach it, a key is needed', async () => {
  await expect(serve({ slow: new SlowEngine(1) }, { host: '0.0.0.0' })).rejects.toMatchObject({
    code: 'config_invalid',
  });
  const { url } = await serve({ slow: new SlowEngine(1) }, { host: '0.0.0.0', apiKey: 'sesame' });
  const client = (apiKey: string): OpenAI =>
    new OpenAI({ baseURL: `${url.replace('0.0.0.0', '127.0.0.1')}/v1`, apiKey, maxRetries: 0 });
  await expect(client('wrong').models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
  expect((await client('sesame').models.list()).data).toHaveLength(1);
  // What is served, and why it fails, is for those with the key.
  const health = async (headers: Record<string, string>): Promise<unknown> =>
    (await fetch(`${url.replace('0.0.0.0', '127.0.0.1')}/health`, { headers })).json();
  expect(await health({})).toEqual({ status: 'ok' });
  expect(await health({ authorization: 'Bearer sesame' })).toMatchObject({ status: 'ok', model: 'slow' });
});

test('its state and figures can be read', async () => {
  const engine = new SlowEngine(2);
  engine.release();
  const { client, url } = await serve({ slow: engine });
  await client.chat.completions.create({ model: 'slow', messages });
  expect(await (await fetch(`${url}/health`)).json()).toMatchObject({
    status: 'ok',
    model: 'slow',
    requests_served: 1,
    models: { slow: { state: 'ready' } },
  });
  const figures = await (await fetch(`${url}/metrics`)).text();
  expect(figures).toContain('octomil_serve_requests_total{model="slow"} 1');
  expect(figures).toContain(
    'octomil_http_request_seconds_count{method="POST",route="/v1/chat/completions",status="200"} 1',
  );
  expect((await fetch(`${url}/nothing`)).status).toBe(404);
});

test('a model nobody asks for is taken out of memory, and back in with the next request', async () => {
  const opened: SlowEngine[] = [];
  const stopped: SlowEngine[] = [];
  const { client, url } = await serve(
    { slow: new SlowEngine(1) },
    {
      preload: false,
      idleUnloadMs: 10,
      openEngine: () => {
        const engine = new SlowEngine(1);
        engine.release();
        engine.stop = async () => void stopped.push(engine);
        opened.push(engine);
        return engine;
      },
    },
  );
  const state = async (): Promise<unknown> =>
    ((await (await fetch(`${url}/v1/models/slow`)).json()) as { state: unknown }).state;
  expect([opened.length, await state()]).toEqual([0, 'unloaded']);
  for (const count of [1, 2]) {
    await client.chat.completions.create({ model: 'slow', messages });
    expect(opened).toHaveLength(count);
    await until(() => stopped.length === count);
    expect(await state()).toBe('unloaded');
  }
});
