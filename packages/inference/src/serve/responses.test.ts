import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { OpenAI } from 'openai';
import { LlamaEngine } from '../engine/index.js';
import { hasLlama } from '../engine/testing/has-llama.js';
import { makeTinyGguf } from '../engine/testing/tiny-gguf.js';
import { type Serve, startServe } from './start-serve.js';
import { SlowEngine } from './testing/slow-engine.js';

const withLlama = hasLlama() ? test : test.skip;
const started: Serve[] = [];
let folder: string;
let server: Serve;
let client: OpenAI;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-responses-'));
  const path = (name: string): string => join(folder, `${name}.gguf`);
  await makeTinyGguf({ kind: 'bigram', path: path('bigram'), corpus: ['The rain comes and sun goes'] });
  await makeTinyGguf({ kind: 'bigram', path: path('caller'), corpus: ['Let me see <tool_call>'] });
  server = await startServe({
    models: { tiny: { path: path('bigram') }, caller: { path: path('caller') } },
    port: 0,
    openEngine: ({ path: modelPath, ...options }) => new LlamaEngine({ modelPath, ...options, threads: 1 }),
  });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
});
afterEach(async () => {
  await Promise.all(started.splice(0).map((one) => one.stop()));
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const tool = {
  type: 'function' as const,
  name: 'get_weather',
  description: 'Weather',
  strict: true,
  parameters: {
    type: 'object',
    properties: { city: { type: 'string', maxLength: 10 }, days: { type: 'integer', minimum: 1, maximum: 9 } },
    required: ['city', 'days'],
    additionalProperties: false,
  },
};

withLlama('a text, whole and as events, has the same items (needs node-llama-cpp)', async () => {
  const ask = {
    model: 'tiny',
    instructions: 'Be short.',
    input: 'Tell me about the model',
    max_output_tokens: 300,
    temperature: 0,
    metadata: { a: 'b' },
  };
  const whole = await client.responses.create(ask);
  expect(whole).toMatchObject({
    object: 'response',
    status: 'completed',
    model: 'tiny',
    store: false,
    metadata: { a: 'b' },
  });
  expect(whole.output_text).toMatch(/[a-z]{2,} [a-z]{2,}/);
  expect(whole.output).toMatchObject([{ type: 'message', role: 'assistant', status: 'completed' }]);
  expect(whole.usage?.total_tokens).toBe((whole.usage?.input_tokens ?? 0) + (whole.usage?.output_tokens ?? 0));
  const stream = client.responses.stream(ask);
  const events: OpenAI.Responses.ResponseStreamEvent[] = [];
  for await (const event of stream) events.push(event);
  const final = await stream.finalResponse();
  expect(final.output_text).toBe(whole.output_text);
  expect(final.usage?.output_tokens).toBe(whole.usage?.output_tokens);
  expect(events.map(({ sequence_number: number }) => number)).toEqual(events.map((_, index) => index));
  const types = events.map(({ type }) => type).filter((type, index, all) => type !== all[index - 1]);
  expect(types).toEqual([
    'response.created',
    'response.in_progress',
    'response.output_item.added',
    'response.content_part.added',
    'response.output_text.delta',
    'response.output_text.done',
    'response.content_part.done',
    'response.output_item.done',
    'response.completed',
  ]);
  const cut = await client.responses.create({ ...ask, max_output_tokens: 3 });
  expect(cut).toMatchObject({ status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } });
  const parts = [
    { type: 'input_text' as const, text: 'Tell me about ' },
    { type: 'input_text' as const, text: 'the model' },
  ];
  const asItems = await client.responses.create({
    ...ask,
    instructions: null,
    input: [
      { role: 'developer', content: 'Be short.' },
      { role: 'user', content: parts },
    ],
  });
  expect(asItems.output_text).toBe(whole.output_text);
  expect(asItems.usage?.input_tokens).toBe(whole.usage?.input_tokens);
});

withLlama('JSON of a schema, parsed by the client (needs node-llama-cpp)', async () => {
  const schema = {
    type: 'object',
    properties: { ok: { type: 'boolean' } },
    required: ['ok'],
    additionalProperties: false,
  };
  const parsed = await client.responses.parse({
    model: 'tiny',
    input: 'Well?',
    text: { format: { type: 'json_schema', name: 'answer', schema, strict: true } },
  });
  expect(parsed.output_parsed).toEqual({ ok: expect.any(Boolean) });
  const refused = client.responses.create({
    model: 'tiny',
    input: 'Well?',
    text: { format: { type: 'json_schema', name: 'answer', schema: { type: 'string', pattern: 'a' } } },
  });
  await expect(refused).rejects.toMatchObject({
    status: 400,
    param: 'text.format',
    message: expect.stringContaining('pattern'),
  });
});

withLlama(
  'functions are called after what was said, and what they give is read (needs node-llama-cpp)',
  async () => {
    const ask = { model: 'caller', input: 'The weather?', tools: [tool], parallel_tool_calls: false, temperature: 0 };
    const whole = await client.responses.create(ask);
    expect(whole.status).toBe('completed');
    expect(whole.output.map(({ type }) => type)).toEqual(['message', 'function_call']);
    expect(whole.output_text.trim()).toBe('Let me see');
    const [call] = whole.output.filter((item) => item.type === 'function_call');
    expect(JSON.parse(call?.arguments ?? '')).toEqual({ city: expect.any(String), days: expect.any(Number) });
    const stream = client.responses.stream(ask);
    let deltas = '';
    stream.on('response.function_call_arguments.delta', ({ delta }) => {
      deltas += delta;
    });
    const final = await stream.finalResponse();
    expect(final.output.map(({ type }) => type)).toEqual(['message', 'function_call']);
    const [streamed] = final.output.filter((item) => item.type === 'function_call');
    expect([deltas, streamed?.name]).toEqual([streamed?.arguments, 'get_weather']);
    expect(streamed?.call_id).toMatch(/^call_/);
    const next = await client.responses.create({
      model: 'caller',
      input: [
        { role: 'user', content: 'The weather?' },
        ...(whole.output as OpenAI.Responses.ResponseInputItem[]),
        { type: 'function_call_output', call_id: call?.call_id ?? '', output: 'Rain' },
      ],
      max_output_tokens: 200,
      tools: [tool],
      tool_choice: { type: 'function', name: 'get_weather' },
    });
    expect(next.usage?.input_tokens).toBeGreaterThan(whole.usage?.input_tokens ?? 0);
    expect(next.output[0]?.type).toBe('function_call');
  },
  240_000,
);

test('what fails before the first word has its status; afterwards the response failed', async () => {
  const engine = new SlowEngine(1);
  const slow = await startServe({
    models: { slow: { path: 'slow', parallelSequences: 1 } },
    port: 0,
    openEngine: () => engine,
  });
  started.push(slow);
  const own = new OpenAI({ baseURL: `${slow.url}/v1`, apiKey: 'none', maxRetries: 0 });
  engine.failure = new OctomilError('model_load_failed', 'it was cut short', { retryAfterSeconds: 4 });
  await expect(own.responses.create({ model: 'slow', input: 'x', stream: true })).rejects.toMatchObject({
    status: 503,
  });
  engine.failure = undefined;
  const stream = await own.responses.create({ model: 'slow', input: 'x', stream: true });
  const types: string[] = [];
  const reading = (async () => {
    for await (const event of stream) {
      types.push(event.type);
      if (event.type === 'response.output_text.delta') engine.fail(new OctomilError('inference_failed', 'it died'));
      if (event.type === 'response.failed') expect(event.response.error?.message).toBe('it died');
    }
  })();
  await reading;
  expect(types.at(-1)).toBe('response.failed');
  expect(types).not.toContain('response.completed');
});

test.each([
  ['a response that is not kept', { previous_response_id: 'resp_1' }, 'previous_response_id'],
  ['a conversation', { conversation: 'conv_1' }, 'conversation'],
  ['work in the background', { background: true }, 'background'],
  ['a prompt that may be cut', { truncation: 'auto' }, 'truncation'],
  ['an item of another kind', { input: [{ type: 'item_reference', id: 'x' }] }, 'input.0.type'],
  ['a picture', { input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'x' }] }] }, 'input.0.content'],
  ['an unknown role', { input: [{ role: 'tool', content: 'x' }] }, 'input.0.role'],
  [
    'a result without its call',
    { input: [{ type: 'function_call_output', call_id: 'c', output: 'x' }] },
    'messages.0.tool_call_id',
  ],
  ['a tool of another kind', { tools: [{ type: 'web_search' }] }, 'tools.0.type'],
  ['a negative limit', { max_output_tokens: -1 }, 'max_output_tokens'],
  ['no input', { input: [] }, 'input'],
])('%s is refused with the field', async (_name, body, param) => {
  const refused = await client.responses
    .create({ model: 'tiny', input: 'x', ...(body as object) })
    .catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(OpenAI.APIError);
  expect([400, 415, 422]).toContain((refused as { status: number }).status);
  expect(refused).toMatchObject({ param });
});

test('a response cannot be asked for later', async () => {
  await expect(client.responses.retrieve('resp_1')).rejects.toMatchObject({ status: 404 });
});
