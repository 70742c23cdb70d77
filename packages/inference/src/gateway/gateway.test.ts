import { afterEach, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import OpenAI from 'openai';
import {
  type FakeAnswer,
  type FakeUpstream,
  json,
  OLLAMA_END,
  ollamaAnswer,
  ollamaLine,
  openAiAnswer,
  openAiEvent,
  startFakeUpstream,
} from './testing/fake-upstream.js';
import { type GatewayApp, type GatewayAppOptions, readEvents, startGatewayApp } from './testing/gateway-app.js';

const open: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.stop();
});

async function upstream(answer?: FakeAnswer): Promise<FakeUpstream> {
  const started = await startFakeUpstream(answer);
  open.push(started);
  return started;
}

async function gatewayApp(options: GatewayAppOptions): Promise<GatewayApp> {
  const started = await startGatewayApp(options);
  open.push(started);
  return started;
}

async function post(app: GatewayApp, path: string, body: object, signal?: AbortSignal): Promise<Response> {
  return fetch(`${app.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

const ASK = { model_id: 'phi-4-mini', messages: [{ role: 'user', content: 'Explain gradient descent' }] };
const QUICK = { connectMs: 500, firstContentMs: 150, idleMs: 150, totalMs: 600, answerMs: 300 };

async function until(check: () => boolean): Promise<void> {
  while (!check()) await new Promise((resolve) => setTimeout(resolve, 5));
}

test('answers a conversation and a text, with what was asked for passed on by Ollama names', async () => {
  const ollama = await upstream();
  const app = await gatewayApp({ ollama: ollama.url });
  const response = await post(app, '/api/v1/inference', {
    ...ASK,
    parameters: { temperature: 0.7, max_tokens: 256, stop: 'END', seed: 0, response_format: { type: 'json_object' } },
  });
  expect(response.status).toBe(200);
  expect(await response.json()).toEqual({
    output: 'Hello world',
    latency_ms: expect.any(Number),
    provider: 'ollama',
    model_id: 'phi-4-mini',
    finish_reason: 'stop',
    usage: { prompt_tokens: 7, completion_tokens: 2, total_tokens: 9 },
    session_id: expect.any(String),
  });
  expect(ollama.requests[0]?.body).toEqual({
    model: 'phi-4-mini',
    messages: ASK.messages,
    stream: true,
    truncate: false,
    format: 'json',
    options: { temperature: 0.7, num_predict: 256, stop: ['END'], seed: 0 },
  });
  await post(app, '/api/v1/inference', { model_id: 'phi-4-mini', input_data: 'Hi' });
  expect(ollama.requests[1]?.body['messages']).toEqual([{ role: 'user', content: 'Hi' }]);
  expect(app.events.map(({ event_type }) => event_type)).toEqual([
    'generation_started',
    'generation_completed',
    'generation_started',
    'generation_completed',
  ]);
  expect(app.events[1]?.metrics).toMatchObject({ total_chunks: 2, prompt_tokens: 7, completion_tokens: 2 });
});

test('streams one event for each token and closes after the last', async () => {
  const ollama = await upstream(ollamaAnswer(['Cherry', ' blossoms', ' 🌸"\n']));
  const app = await gatewayApp({ ollama: ollama.url });
  const response = await post(app, '/api/v1/inference/stream', ASK);
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  const events = readEvents(await response.text()).map(({ data }) => data);
  expect(events.map(({ token, done }) => [token, done])).toEqual([
    ['Cherry', false],
    [' blossoms', false],
    [' 🌸"\n', false],
    ['', true],
  ]);
  for (const event of events) {
    expect(event).toMatchObject({
      provider: 'ollama',
      latency_ms: expect.any(Number),
      session_id: events[0]?.['session_id'],
    });
  }
  expect(events.at(-1)).toMatchObject({ finish_reason: 'stop', usage: { total_tokens: 9 } });
});

test('falls back to the other backend, also when the first says its error inside a 200', async () => {
  const ollama = await upstream((_, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.end('{"error":"model runner has unexpectedly stopped"}\n');
  });
  const openAi = await upstream(openAiAnswer(['from', ' there']));
  const app = await gatewayApp({ ollama: ollama.url, openAi: openAi.url });
  const events = readEvents(await (await post(app, '/api/v1/inference/stream', ASK)).text());
  expect(events.map(({ data }) => data['token'])).toEqual(['from', ' there', '']);
  expect(events.at(-1)?.data).toMatchObject({
    provider: 'openai',
    done: true,
    usage: { prompt_tokens: 9, completion_tokens: 2 },
  });
  expect(openAi.requests[0]?.headers.authorization).toBe('Bearer sk-test');
});

test('both down: 503 says which were tried and why', async () => {
  const openAi = await upstream((_, response) => json(response, 500, { error: { message: 'out of memory' } }));
  const app = await gatewayApp({ ollama: 'http://127.0.0.1:1', openAi: openAi.url });
  const response = await post(app, '/api/v1/inference', ASK);
  expect(response.status).toBe(503);
  expect(await response.json()).toMatchObject({
    code: 'network_unavailable',
    message: expect.stringMatching(
      /ollama at http:\/\/127\.0\.0\.1:1 cannot be reached.*ECONNREFUSED.*openai answered 500: out of memory/,
    ),
    details: {
      tried: [
        { provider: 'ollama', code: 'network_unavailable' },
        { provider: 'openai', code: 'inference_failed' },
      ],
    },
  });
});

test('an unknown model is 404 with the near names of every backend', async () => {
  const ollama = await upstream();
  const openAi = await upstream(openAiAnswer([]));
  const app = await gatewayApp({ ollama: ollama.url, openAi: openAi.url });
  const response = await post(app, '/api/v1/inference', { ...ASK, model_id: 'phi4-mni' });
  expect(response.status).toBe(404);
  expect(await response.json()).toMatchObject({
    code: 'model_not_found',
    details: { near_names: ['phi-4-mini'] },
  });
  // A model that only the second has is found there.
  expect((await post(app, '/api/v1/inference', { ...ASK, model_id: 'gpt-oss' })).status).toBe(200);
});

test('a request that is wrong is not tried elsewhere, and a long prompt is said to be one', async () => {
  const ollama = await upstream((_, response) =>
    json(response, 400, { error: 'the input length exceeds the context length' }),
  );
  const openAi = await upstream(openAiAnswer(['x']));
  const app = await gatewayApp({ ollama: ollama.url, openAi: openAi.url });
  const native = await post(app, '/api/v1/inference', ASK);
  expect([native.status, ((await native.json()) as { code: string }).code]).toEqual([413, 'context_too_large']);
  const open = await post(app, '/v1/chat/completions', { model: 'phi-4-mini', messages: ASK.messages });
  expect([open.status, await open.json()]).toEqual([
    400,
    expect.objectContaining({ error: expect.objectContaining({ code: 'context_length_exceeded' }) }),
  ]);
  expect(openAi.requests).toHaveLength(0);
});

/** What breaks after the first text, and how it is called. */
const BROKEN: readonly [string, string, (response: Parameters<FakeAnswer>[1]) => void][] = [
  ['ends without done', 'stream_interrupted', (r) => r.end()],
  ['ends in half a line', 'inference_failed', (r) => r.end('{"message":{"content":"b')],
  ['sends an error line', 'inference_failed', (r) => r.end('{"error":"boom"}\n')],
  ['sends invalid UTF-8', 'inference_failed', (r) => r.end(Buffer.from([0xff, 0xfe, 0x0a]))],
  ['sends 10 MiB without a newline', 'inference_failed', (r) => r.end(Buffer.alloc(10 * 1024 * 1024, 'x'))],
  ['sends what is not JSON', 'inference_failed', (r) => r.end('<html>\n')],
  ['breaks the connection', 'stream_interrupted', (r) => r.destroy()],
  ['hangs', 'request_timeout', () => undefined],
  [
    'trickles',
    'request_timeout',
    (r) => {
      const timer = setInterval(() => r.write(ollamaLine('a')), 50);
      r.on('close', () => clearInterval(timer));
    },
  ],
];

test.each(BROKEN)('a backend that %s is an error event (%s), never an end', async (_, code, answer) => {
  const ollama = await upstream((__, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.write(ollamaLine('a'));
    setTimeout(() => answer(response), 30);
  });
  const app = await gatewayApp({ ollama: ollama.url, timeouts: QUICK });
  const response = await post(app, '/api/v1/inference/stream', ASK);
  expect(response.status).toBe(200);
  const events = readEvents(await response.text());
  expect(events[0]?.data['token']).toBe('a');
  expect(events.at(-1)).toMatchObject({ event: 'error', data: { done: false, error: { code } } });
  expect(events.some(({ data }) => data['done'] === true)).toBe(false);
  expect(app.events.at(-1)).toMatchObject({
    event_type: 'generation_failed',
    error_code: code,
    metrics: { prompt_tokens: 6, usage_estimated: true },
  });
  // And with an answer that is not streamed, a status.
  const whole = await post(app, '/api/v1/inference', ASK);
  expect(whole.status).toBeGreaterThanOrEqual(500);
});

test.each([
  ['hangs', () => undefined],
  [
    'sends only empty lines',
    (response: Parameters<FakeAnswer>[1]) => {
      const timer = setInterval(() => response.write('\n'), 30);
      response.on('close', () => clearInterval(timer));
    },
  ],
])('a backend that %s before its first text is passed by, and its request ended', async (_, answer) => {
  const ollama = await upstream((__, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.flushHeaders();
    answer(response);
  });
  const openAi = await upstream(openAiAnswer(['b']));
  const app = await gatewayApp({ ollama: ollama.url, openAi: openAi.url, timeouts: QUICK });
  const events = readEvents(await (await post(app, '/api/v1/inference/stream', ASK)).text());
  expect(events.at(-1)?.data).toMatchObject({ done: true, provider: 'openai' });
  await until(() => ollama.aborted === 1);
});

test('an OpenAI-compatible backend: finish_reason ends it, nothing else does', async () => {
  const text = (content: string) => openAiEvent({ choices: [{ index: 0, delta: { content } }] });
  const openAi = await upstream((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(text('a'));
  });
  const app = await gatewayApp({ openAi: openAi.url });
  const cut = readEvents(await (await post(app, '/api/v1/inference/stream', ASK)).text());
  expect(cut.at(-1)).toMatchObject({ event: 'error', data: { error: { code: 'stream_interrupted' } } });
  openAi.answer = (_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(text('a'));
    setTimeout(() => response.end('event: error\ndata: {"error":{"message":"overloaded"}}\n\n'), 30);
  };
  const failed = readEvents(await (await post(app, '/api/v1/inference/stream', ASK)).text());
  expect(failed.at(-1)?.data['error']).toMatchObject({ message: 'openai failed: overloaded' });
  // CRLF, no [DONE], no usage.
  openAi.answer = (_, response) => {
    const last = openAiEvent({ choices: [{ index: 0, delta: {}, finish_reason: 'length' }] });
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(`${text('a')}${last}`.replaceAll('\n', '\r\n'));
  };
  const whole = readEvents(await (await post(app, '/api/v1/inference/stream', ASK)).text());
  expect(whole.at(-1)?.data).toMatchObject({
    done: true,
    finish_reason: 'length',
    usage: { completion_tokens: 1, estimated: true },
  });
  // Whole, and then neither usage nor an end.
  openAi.answer = (_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(`${text('a')}${openAiEvent({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] })}`);
  };
  const left = readEvents(await (await post(app, '/api/v1/inference/stream', ASK)).text());
  expect(left.at(-1)?.data).toMatchObject({ done: true, finish_reason: 'stop' });
});

test('the circuit opens after failures, one probe at a time closes it, and refusals do not open it', async () => {
  let now = 0;
  const clock = { now: () => now, sleep: async () => undefined, after: () => () => undefined };
  const ollama = await upstream((_, response) => json(response, 500, { error: 'down' }));
  const openAi = await upstream(openAiAnswer(['b']));
  const app = await gatewayApp({
    ollama: ollama.url,
    openAi: openAi.url,
    clock,
    limits: { circuit: { failures: 3, openMs: 1_000 } },
  });
  const ask = async (): Promise<unknown> =>
    ((await (await post(app, '/api/v1/inference', ASK)).json()) as { provider?: unknown }).provider;
  for (let index = 0; index < 6; index += 1) expect(await ask()).toBe('openai');
  expect(ollama.requests).toHaveLength(3);
  now = 1_000;
  await ask();
  expect(ollama.requests).toHaveLength(4);
  now = 2_000;
  await ask();
  expect(ollama.requests).toHaveLength(4);
  now = 3_000;
  ollama.answer = ollamaAnswer(['a']);
  expect(await ask()).toBe('ollama');
  ollama.answer = (_, response) => json(response, 400, { error: 'bad' });
  for (let index = 0; index < 6; index += 1) await ask();
  ollama.answer = ollamaAnswer(['a']);
  expect(await ask()).toBe('ollama');
});

test('nobody reads in the words of a failed server what others asked it', async () => {
  const ollama = await upstream(({ body }, response) =>
    json(response, 500, { error: `crashed at ${JSON.stringify(body['messages'])}` }),
  );
  const app = await gatewayApp({ ollama: ollama.url, limits: { circuit: { failures: 1, openMs: 60_000 } } });
  const secret = { ...ASK, messages: [{ role: 'user', content: 'diagnosis of Ada' }] };
  expect(await (await post(app, '/api/v1/inference', secret)).text()).toContain('diagnosis of Ada');
  for (const path of ['/api/v1/inference', '/v1/chat/completions']) {
    const others = await post(app, path, { ...ASK, model: ASK.model_id });
    const text = await others.text();
    expect({ status: others.status, text }).toMatchObject({
      status: 503,
      text: expect.stringContaining('since it failed: inference_failed'),
    });
    expect(text).not.toContain('Ada');
  }
});

test('an empty finish_reason ends nothing', async () => {
  const openAi = await upstream((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(openAiEvent({ choices: [{ delta: { content: 'half' }, finish_reason: '' }] }));
    response.end();
  });
  const response = await post(await gatewayApp({ openAi: openAi.url }), '/api/v1/inference', ASK);
  expect({ status: response.status, text: await response.text() }).toMatchObject({
    status: 503,
    text: expect.stringContaining('stream_interrupted'),
  });
});

test('while a probe writes a long answer, others are let through', async () => {
  const ollama = await upstream((_, response) => json(response, 500, { error: 'down' }));
  const app = await gatewayApp({ ollama: ollama.url, limits: { circuit: { failures: 1, openMs: 1 } } });
  await post(app, '/api/v1/inference', ASK);
  let finish = (): void => undefined;
  ollama.answer = (_, response) => {
    response.write(ollamaLine('slow'));
    finish = () => response.end(OLLAMA_END);
  };
  await new Promise((resolve) => setTimeout(resolve, 5));
  const probe = await post(app, '/api/v1/inference/stream', ASK);
  ollama.answer = ollamaAnswer(['quick']);
  expect((await post(app, '/api/v1/inference', ASK)).status).toBe(200);
  finish();
  expect(readEvents(await probe.text()).at(-1)?.data).toMatchObject({ done: true });
});

test('answers that are cut at their limit while they are written do not open the circuit', async () => {
  const ollama = await upstream((_, response) => {
    response.write(ollamaLine('on and on'));
  });
  const limits = { circuit: { failures: 1, openMs: 60_000 } };
  const app = await gatewayApp({ ollama: ollama.url, timeouts: { answerMs: 50 }, limits });
  const cut = await post(app, '/api/v1/inference', ASK);
  expect([cut.status, ((await cut.json()) as { code: string }).code]).toEqual([504, 'request_timeout']);
  ollama.answer = ollamaAnswer(['quick']);
  expect((await post(app, '/api/v1/inference', ASK)).status).toBe(200);
});

test('a key that the backend says back stays unsaid, and an answer without end is not gathered', async () => {
  const openAi = await upstream(({ headers }, response) =>
    json(response, 401, { error: { message: `no such key: ${headers.authorization}` } }),
  );
  const app = await gatewayApp({ openAi: openAi.url });
  const refused = await post(app, '/api/v1/inference', ASK);
  const said = await refused.text();
  expect(said).toContain('no such key: Bearer [the key]');
  expect(said).not.toContain('sk-test');
  const line = openAiEvent({ choices: [{ delta: { content: 'x'.repeat(1_000_000) } }] });
  openAi.answer = (_, response) => {
    const more = (): void => {
      while (!response.destroyed && response.write(line));
    };
    response.on('drain', more);
    more();
  };
  const endless = await post(app, '/api/v1/inference', ASK);
  expect(await endless.text()).toContain('ask for a stream');
  await until(() => openAi.aborted === 1);
});

test('a client that leaves is noticed at the backend, before the first token, between tokens and unstreamed', async () => {
  const ollama = await upstream(({ body }, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.flushHeaders();
    if (String(body['model']).startsWith('talks')) response.write(ollamaLine('a'));
  });
  const app = await gatewayApp({ ollama: ollama.url });
  const paths = ['/api/v1/inference/stream', '/api/v1/inference', '/v1/chat/completions', '/api/v1/inference/batch'];
  const leaving = Array.from({ length: 50 }, async (_, index) => {
    const model = index % 2 === 0 ? 'talks' : 'silent';
    const common = { model_id: model, model, messages: ASK.messages, inputs: ['a'], stream: true };
    const client = new AbortController();
    const answered = post(app, paths[index % 4] ?? '', common, client.signal).then((response) => response.text());
    await Promise.race([answered.catch(() => undefined), new Promise((resolve) => setTimeout(resolve, 100))]);
    client.abort();
    await answered.catch(() => undefined);
  });
  await until(() => ollama.requests.length === 50);
  await Promise.all(leaving);
  await until(() => ollama.aborted === 50);
  await until(() => app.events.filter(({ error_code }) => error_code === 'cancelled').length === 50);
});

test('a reader that never reads holds the backend back', async () => {
  let sent = 0;
  const big = ollamaLine('x'.repeat(60_000));
  const ollama = await upstream((_, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    const pump = (): void => {
      while (!response.destroyed && sent < 200_000_000) {
        sent += big.length;
        if (!response.write(big)) {
          response.once('drain', pump);
          return;
        }
      }
      response.end(OLLAMA_END);
    };
    pump();
  });
  const app = await gatewayApp({ ollama: ollama.url });
  const client = new AbortController();
  const response = await post(app, '/api/v1/inference/stream', ASK, client.signal);
  let last = -1;
  while (sent !== last) {
    last = sent;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  expect(sent).toBeLessThan(20 * 1024 * 1024);
  client.abort();
  await response.text().catch(() => undefined);
  await until(() => ollama.aborted === 1);
});

test('a batch keeps its order, its bound, and gives each item its own result or error', async () => {
  let active = 0;
  let most = 0;
  const ollama = await upstream(({ body }, response) => {
    const [{ content = '' } = {}] = body['messages'] as { content?: string }[];
    active += 1;
    most = Math.max(most, active);
    setTimeout(
      () => {
        active -= 1;
        if (content === 'bad') return json(response, 400, { error: 'no' });
        response.writeHead(200).end(ollamaLine(`re: ${content}`) + OLLAMA_END);
      },
      content === '0' ? 60 : 10,
    );
  });
  const app = await gatewayApp({ ollama: ollama.url });
  const inputs = ['0', 'bad', '2', '3', '4'].map((content) => ({ messages: [{ role: 'user', content }] }));
  const response = await post(app, '/api/v1/inference/batch', { model_id: 'm', inputs, max_concurrency: 2 });
  const body = (await response.json()) as { results: Record<string, unknown>[] };
  expect(body).toMatchObject({ model_id: 'm', succeeded: 4, failed: 1 });
  expect(body.results.map(({ index, output }) => [index, output])).toEqual([
    [0, 're: 0'],
    [1, undefined],
    [2, 're: 2'],
    [3, 're: 3'],
    [4, 're: 4'],
  ]);
  expect(body.results[1]?.['error']).toMatchObject({ code: 'invalid_input' });
  expect(most).toBe(2);
});

test('embeddings of one text or many, in order, from either backend', async () => {
  const openAi = await upstream(openAiAnswer([]));
  const app = await gatewayApp({ ollama: (await upstream()).url, openAi: openAi.url });
  const one = await (await post(app, '/api/v1/embeddings', { model_id: 'phi-4-mini', input: 'abc' })).json();
  expect(one).toMatchObject({
    data: [{ embedding: [3, 1], index: 0 }],
    model: 'phi-4-mini',
    provider: 'ollama',
    usage: { prompt_tokens: 3, total_tokens: 3 },
  });
  const many = (await (await post(app, '/api/v1/embeddings', { model_id: 'gpt-oss', input: ['a', 'bb'] })).json()) as {
    data: object[];
  };
  expect(many.data).toMatchObject([{ embedding: [1, 2] }, { embedding: [2, 2] }]);
  for (const input of ['', [], ['a', ''], 7]) {
    expect((await post(app, '/api/v1/embeddings', { model_id: 'phi-4-mini', input })).status).toBe(400);
  }
  const shorter = await post(app, '/v1/embeddings', { model: 'phi-4-mini', input: 'a', dimensions: 1 });
  expect(shorter.status).toBe(400);
  expect(await shorter.json()).toMatchObject({ error: { param: 'dimensions' } });
});

test('more generations than may run at once are asked to wait', async () => {
  const ollama = await upstream((_, response) => {
    response.writeHead(200).flushHeaders();
  });
  const app = await gatewayApp({ ollama: ollama.url, limits: { maxConcurrent: 2 } });
  const client = new AbortController();
  const held = [1, 2].map(() => post(app, '/api/v1/inference/stream', ASK, client.signal).catch(() => undefined));
  await until(() => ollama.requests.length === 2);
  const refused = await post(app, '/v1/chat/completions', { model: 'm', messages: ASK.messages });
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '1']);
  client.abort();
  await Promise.all(held);
  await until(() => ollama.aborted === 2);
});

const asOrganization = (organization: string) => (app: GatewayApp, path: string, body: object, signal?: AbortSignal) =>
  fetch(`${app.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-organization': organization },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });

test('one organization cannot take all that may run at once', async () => {
  const ollama = await upstream((_, response) => {
    response.writeHead(200).flushHeaders();
  });
  const app = await gatewayApp({ ollama: ollama.url, grouped: true, limits: { maxConcurrent: 5, maxShareRatio: 0.8 } });
  const [one, other] = [asOrganization('one'), asOrganization('other')];
  const client = new AbortController();
  const hold = (ask: typeof one) => ask(app, '/api/v1/inference/stream', ASK, client.signal).catch(() => undefined);
  const held = Array.from({ length: 4 }, () => hold(one));
  await until(() => ollama.requests.length === 4);
  for (const path of ['/api/v1/inference', '/api/v1/embeddings']) {
    const refused = await one(app, path, { ...ASK, input: 'x' });
    expect([refused.status, await refused.json()]).toEqual([
      429,
      expect.objectContaining({ code: 'rate_limited', details: { max_concurrent: 4 } }),
    ]);
  }
  held.push(hold(other));
  await until(() => ollama.requests.length === 5);
  client.abort();
  await Promise.all(held);
  await until(() => ollama.aborted === 5);
  ollama.answer = ollamaAnswer(['a']);
  expect((await one(app, '/api/v1/inference', ASK)).status).toBe(200);
});

test("failures that one caller's questions cause leave the server to the others, and not to that caller", async () => {
  const ollama = await upstream(({ body }, response) =>
    JSON.stringify(body).includes('crash')
      ? json(response, 500, { error: 'crashed' })
      : ollamaAnswer(['a'])({ body } as never, response),
  );
  const app = await gatewayApp({
    ollama: ollama.url,
    grouped: true,
    limits: { circuit: { failures: 5, openMs: 60_000 } },
  });
  const [bad, good] = [asOrganization('bad'), asOrganization('good')];
  const crash = { ...ASK, messages: [{ role: 'user', content: 'crash' }] };
  for (let index = 0; index < 8; index += 1) expect((await bad(app, '/api/v1/inference', crash)).status).toBe(503);
  expect(ollama.requests).toHaveLength(5);
  expect((await good(app, '/api/v1/inference', ASK)).status).toBe(200);
  expect((await bad(app, '/api/v1/inference', ASK)).status).toBe(503);
});

test('failures that several callers meet, and a server that nobody reaches, open the circuit for all', async () => {
  const ollama = await upstream((_, response) => json(response, 500, { error: 'down' }));
  const limits = { circuit: { failures: 3, openMs: 60_000 } };
  const app = await gatewayApp({ ollama: ollama.url, grouped: true, limits });
  for (const name of ['one', 'other', 'one', 'other', 'third'])
    await asOrganization(name)(app, '/api/v1/inference', ASK);
  const asked = ollama.requests.length;
  await asOrganization('fourth')(app, '/api/v1/inference', ASK);
  expect(ollama.requests).toHaveLength(asked);
  const away = await gatewayApp({ ollama: 'http://127.0.0.1:9', grouped: true, limits });
  for (let index = 0; index < 3; index += 1) await asOrganization('one')(away, '/api/v1/inference', ASK);
  const refused = await asOrganization('other')(away, '/api/v1/inference', ASK);
  expect(await refused.text()).toContain('is left alone');
});

test.each([
  [{ ...ASK, parameters: { temperature: -1 } }, 'temperature'],
  [{ ...ASK, parameters: { temperature: '0.5' } }, 'temperature'],
  [{ ...ASK, parameters: { max_tokens: 1.5 } }, 'max_tokens'],
  [{ ...ASK, parameters: { max_tokens: 0 } }, 'max_tokens'],
  [{ ...ASK, parameters: { tempreature: 1 } }, 'tempreature'],
  [{ ...ASK, parameters: { response_format: { type: 'xml' } } }, 'response_format.type'],
  [{ model_id: 'm' }, 'messages'],
  [{ model_id: 'm', messages: [{ role: 'robot', content: 'x' }] }, 'messages.0.role'],
  [{ model_id: 'm', messages: [] }, 'messages'],
  [{ model_id: 'm', input_data: 5 }, 'input_data'],
  [{ ...ASK, input_data: 'x' }, 'input_data'],
  [{ messages: ASK.messages }, 'model_id'],
])('a wrong field is 400 and named: %j', async (body, field) => {
  const app = await gatewayApp({ ollama: 'http://127.0.0.1:1' });
  for (const path of ['/api/v1/inference', '/api/v1/inference/stream']) {
    const response = await post(app, path, body);
    expect(response.status).toBe(400);
    expect(((await response.json()) as { message: string }).message).toContain(field);
  }
});

test('silence is filled with pings, and a failure after the first is an event', async () => {
  // A hundred times as fast.
  const clock = {
    now: () => Date.now() * 100,
    sleep: systemClock.sleep,
    after: (delayMs: number, callback: () => void) => systemClock.after(delayMs / 100, callback),
  };
  const ollama = await upstream((_, response) => {
    setTimeout(() => json(response, 500, { error: 'too late' }), 400);
  });
  const app = await gatewayApp({ ollama: ollama.url, clock, timeouts: { firstContentMs: 500_000 } });
  const response = await post(app, '/api/v1/inference/stream', ASK);
  expect(response.status).toBe(200);
  const text = await response.text();
  expect(text.startsWith(': ping\n\n: ping\n\n')).toBe(true);
  expect(readEvents(text)).toMatchObject([{ event: 'error', data: { done: false } }]);
});

test('a kept connection that the backend closed meanwhile costs no request', async () => {
  const served = new WeakSet<object>();
  const answer = ollamaAnswer(['a']);
  const ollama = await upstream((request, response) => {
    const { socket } = response;
    if (socket === null || served.has(socket)) {
      socket?.destroy();
      return;
    }
    served.add(socket);
    return answer(request, response);
  });
  const app = await gatewayApp({ ollama: ollama.url });
  for (let index = 0; index < 3; index += 1) expect((await post(app, '/api/v1/inference', ASK)).status).toBe(200);
  expect(ollama.requests).toHaveLength(5);
});

test('a backend that dies of a request is not given it again', async () => {
  // A hundred times as fast: 20 ms are 2 s.
  const clock = { ...systemClock, now: () => Date.now() * 100 };
  let afterMs = 0;
  const ollama = await upstream((_, response) => {
    setTimeout(() => response.socket?.destroy(), afterMs);
  });
  const app = await gatewayApp({ ollama: ollama.url, clock });
  // Of a connection of its own, at once.
  expect((await post(app, '/api/v1/inference', ASK)).status).toBe(503);
  expect(ollama.requests).toHaveLength(1);
  // Of one that was kept, later.
  ollama.answer = ollamaAnswer(['a']);
  expect((await post(app, '/api/v1/inference', ASK)).status).toBe(200);
  afterMs = 50;
  ollama.answer = (_, response) => void setTimeout(() => response.socket?.destroy(), afterMs);
  expect((await post(app, '/api/v1/inference', ASK)).status).toBe(503);
  expect(ollama.requests).toHaveLength(3);
});

test('interim answers are waited past', async () => {
  const answer = ollamaAnswer(['Hello']);
  const ollama = await upstream((request, response) => {
    response.writeProcessing();
    response.writeEarlyHints({ link: '</a>; rel=preload' });
    return answer(request, response);
  });
  const app = await gatewayApp({ ollama: ollama.url });
  const response = await post(app, '/api/v1/inference', ASK);
  expect(await response.json()).toMatchObject({ output: 'Hello' });
});

test('health tells each backend apart', async () => {
  const app = await gatewayApp({ ollama: (await upstream()).url, openAi: 'http://127.0.0.1:1' });
  const response = await fetch(`${app.url}/api/v1/inference/health`);
  expect(response.status).toBe(200);
  expect(await response.json()).toMatchObject({
    status: 'degraded',
    backends: [
      { provider: 'ollama', status: 'ok', circuit: 'closed', version: '0.12.0', models: ['phi-4-mini', 'llama3:8b'] },
      { provider: 'openai', status: 'unavailable', code: 'network_unavailable' },
    ],
    active: 0,
    max_concurrent: 500,
  });
  const none = await gatewayApp({ ollama: 'http://127.0.0.1:1' });
  expect((await fetch(`${none.url}/api/v1/inference/health`)).status).toBe(503);
});

test('lists that hold nothing are read past, and no vectors are no answer', async () => {
  const ollama = await upstream(({ path }, response) =>
    json(response, 200, path === '/api/tags' ? { models: [null, { name: 'phi-4-mini' }, 5] } : null),
  );
  const openAi = await upstream(({ path }, response) =>
    json(response, 200, { data: path === '/v1/models' ? [null, { id: 'gpt-oss' }] : [null] }),
  );
  const app = await gatewayApp({ ollama: ollama.url, openAi: openAi.url });
  const models = (await (await fetch(`${app.url}/v1/models`)).json()) as { data: { id: string }[] };
  expect(models.data.map(({ id }) => id)).toEqual(['phi-4-mini', 'gpt-oss']);
  const vectors = await post(app, '/api/v1/embeddings', { model_id: 'phi-4-mini', input: ['a'] });
  expect({ status: vectors.status, text: await vectors.text() }).toMatchObject({
    status: 503,
    text: expect.not.stringMatching(/properties of null|destructure/),
  });
});

test("OpenAI's own client: chat, stream with usage, embeddings, models, errors", async () => {
  const app = await gatewayApp({ ollama: (await upstream()).url });
  const client = new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'k', maxRetries: 0 });
  const messages = [{ role: 'user' as const, content: 'Hi' }];
  const whole = await client.chat.completions.create({ model: 'phi-4-mini', messages });
  expect(whole.choices[0]?.message.content).toBe('Hello world');
  const stream = client.chat.completions.stream({
    model: 'phi-4-mini',
    messages,
    stream_options: { include_usage: true },
  });
  const final = await stream.finalChatCompletion();
  expect(final.choices[0]?.message.content).toBe('Hello world');
  expect(final.usage).toMatchObject({ prompt_tokens: 7, completion_tokens: 2 });
  const { data } = await client.embeddings.create({ model: 'phi-4-mini', input: ['abc'] });
  expect(Array.from(data[0]?.embedding ?? [])).toEqual([3, 1]);
  expect((await client.models.list()).data.map(({ id }) => id)).toEqual(['phi-4-mini', 'llama3:8b']);
  await expect(client.chat.completions.create({ model: 'nope', messages })).rejects.toMatchObject({
    status: 404,
    code: 'model_not_found',
  });
  await expect(client.chat.completions.create({ model: 'phi-4-mini', messages, n: 2 })).rejects.toMatchObject({
    status: 400,
    param: 'n',
  });
  await expect(
    client.chat.completions.create({ model: 'phi-4-mini', messages, temperature: -1 }),
  ).rejects.toMatchObject({ status: 400, param: 'temperature' });
});
