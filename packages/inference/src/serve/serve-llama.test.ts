import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { OpenAI } from 'openai';
import { type GenerationEngine, LlamaEngine } from '../engine/index.js';
import { hasLlama } from '../engine/testing/has-llama.js';
import { makeTinyGguf } from '../engine/testing/tiny-gguf.js';
import { type Serve, startServe } from './start-serve.js';

const withLlama = hasLlama() ? test : test.skip;
const servers: Serve[] = [];
let folder: string;
const path = (name: string): string => join(folder, `${name}.gguf`);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-serve-'));
  await makeTinyGguf({ kind: 'bigram', path: path('bigram') });
  await makeTinyGguf({ kind: 'random', path: path('random') });
});
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function serve(
  models: Parameters<typeof startServe>[0]['models'],
  onEngine: (engine: LlamaEngine, path: string) => void = () => undefined,
  silenceLimitMs: (path: string) => number | undefined = () => undefined,
): Promise<{ client: OpenAI; url: string }> {
  const server = await startServe({
    models,
    port: 0,
    openEngine: ({ path: modelPath, ...options }): GenerationEngine => {
      const engine = new LlamaEngine({ modelPath, ...options, threads: 1, silenceLimitMs: silenceLimitMs(modelPath) });
      onEngine(engine, modelPath);
      return engine;
    },
  });
  servers.push(server);
  return { url: server.url, client: new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 }) };
}

const messages = [{ role: 'user' as const, content: 'Tell me about the model' }];

withLlama(
  'a conversation, a stream, a stop, an embedding, and a prompt that is too long (needs node-llama-cpp)',
  async () => {
    const { client } = await serve({ tiny: { path: path('bigram'), contextTokens: 512 } });
    const whole = await client.chat.completions.create({ model: 'tiny', messages, seed: 4, max_tokens: 30 });
    const text = whole.choices[0]?.message.content ?? '';
    expect(text).toMatch(/[a-z]{2,} [a-z]{2,}/);
    let streamed = '';
    for await (const chunk of client.chat.completions.stream({ model: 'tiny', messages, seed: 4, max_tokens: 30 })) {
      streamed += chunk.choices[0]?.delta.content ?? '';
    }
    expect(streamed).toBe(text);
    const stop = text.slice(8, 11);
    const stopped = await client.chat.completions.create({ model: 'tiny', messages, seed: 4, max_tokens: 30, stop });
    expect(stopped.choices[0]?.message.content).toBe(text.slice(0, text.indexOf(stop)));
    const several = await client.chat.completions.create({ model: 'tiny', messages, seed: 4, n: 3, max_tokens: 30 });
    expect(several.choices[0]?.message.content).toBe(text);
    expect(new Set(several.choices.map(({ message }) => message.content)).size).toBeGreaterThan(1);
    const vectors = await client.embeddings.create({ model: 'tiny', input: ['a', 'b'] });
    expect(Math.hypot(...(vectors.data[1]?.embedding ?? []))).toBeCloseTo(1, 5);
    const long = await client.chat.completions
      .create({ model: 'tiny', messages: [{ role: 'user', content: 'word '.repeat(600) }] })
      .catch((error: unknown) => error);
    expect(long).toBeInstanceOf(OpenAI.BadRequestError);
    expect(long).toMatchObject({ code: 'context_length_exceeded' });
  },
);

withLlama('JSON of a schema from random weights, streamed and whole (needs node-llama-cpp)', async () => {
  const { client } = await serve({ tiny: { path: path('random'), parallelSequences: 8 } });
  const schema = {
    type: 'object',
    properties: { name: { type: 'string', maxLength: 10 }, age: { type: 'integer', minimum: 1, maximum: 99 } },
    required: ['name', 'age'],
    additionalProperties: false,
    $schema: 'http://json-schema.org/draft-07/schema#',
  };
  const { $schema: _, ...plain } = schema;
  const validate = new Ajv2020().compile(plain);
  const ask = (seed: number): OpenAI.Chat.ChatCompletionCreateParamsNonStreaming => ({
    model: 'tiny',
    messages,
    seed,
    max_tokens: 200,
    response_format: { type: 'json_schema', json_schema: { name: 'person', strict: true, schema } },
  });
  const answers = await Promise.all(Array.from({ length: 24 }, (_, seed) => client.chat.completions.create(ask(seed))));
  const ended = answers.flatMap(({ choices: [choice] }) => (choice?.finish_reason === 'stop' ? [choice] : []));
  expect(ended.length).toBeGreaterThan(15);
  for (const { message } of ended) expect(validate(JSON.parse(message.content ?? ''))).toBe(true);
  const stream = client.chat.completions.stream(ask(0) as never);
  expect((await stream.finalChatCompletion()).choices[0]?.message.content).toBe(
    answers[0]?.choices[0]?.message.content,
  );
});

withLlama(
  'an engine killed in the middle of a stream: an error event, 503, then answers again (needs node-llama-cpp)',
  async () => {
    let engine: LlamaEngine | undefined;
    const { client, url } = await serve({ tiny: { path: path('random'), parallelSequences: 1 } }, (opened) => {
      engine = opened;
    });
    const stream = await client.chat.completions.create({
      model: 'tiny',
      messages,
      stream: true,
      response_format: {
        type: 'json_schema',
        json_schema: { name: 'n', schema: { type: 'array', items: { type: 'integer' }, minItems: 900 } },
      },
    });
    const reading = (async () => {
      for await (const chunk of stream) {
        if (chunk.choices[0]?.delta.content) process.kill(engine?.pid ?? 0, 'SIGKILL');
      }
      return 'ended';
    })().catch((error: unknown) => error);
    expect(await reading).toBeInstanceOf(OpenAI.APIError);
    const refused = await client.chat.completions.create({ model: 'tiny', messages }).catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 503, code: 'model_load_failed' });
    expect((refused as { headers: Headers }).headers.get('retry-after')).toBe('1');
    while (engine?.health().state === 'failed') await new Promise((resolve) => setTimeout(resolve, 50));
    await client.chat.completions.create({ model: 'tiny', messages, max_tokens: 2 });
    expect(await (await fetch(`${url}/health`)).json()).toMatchObject({
      models: { tiny: { state: 'ready', restarts: 1 } },
    });
  },
);

withLlama(
  'files that cannot be loaded: 503 with the reason, and the others are served (needs node-llama-cpp)',
  async () => {
    await makeTinyGguf({ kind: 'random', path: path('cut') });
    await truncate(path('cut'), 200_000);
    await makeTinyGguf({ kind: 'random', path: path('headless'), leaveOut: ['llama.attention.head_count'] });
    await writeFile(path('text'), 'hello');
    const { client, url } = await serve({
      cut: { path: path('cut') },
      headless: { path: path('headless') },
      text: { path: path('text') },
      good: { path: path('random') },
    });
    for (const [model, reason] of [
      ['cut', /cut short/],
      ['headless', /head_count/],
      ['text', /begin with GGUF/],
    ] as const) {
      const refused = await client.chat.completions.create({ model, messages }).catch((error: unknown) => error);
      expect(refused).toMatchObject({ status: 503, code: 'model_load_failed', message: expect.stringMatching(reason) });
      expect(Number((refused as { headers: Headers }).headers.get('retry-after'))).toBeGreaterThan(0);
    }
    await client.chat.completions.create({ model: 'good', messages, max_tokens: 2 });
    expect(await (await fetch(`${url}/health`)).json()).toMatchObject({ status: 'degraded' });
  },
);

withLlama(
  'an engine that hangs alive: its request fails, 503 says why, others go on, and it is started anew (needs node-llama-cpp)',
  async () => {
    const engines = new Map<string, LlamaEngine>();
    const models = { tiny: { path: path('random'), parallelSequences: 1 }, other: { path: path('bigram') } };
    const { client, url } = await serve(
      models,
      (engine, file) => engines.set(file, engine),
      (file) => (file === path('random') ? 5_000 : undefined),
    );
    await client.chat.completions.create({ model: 'other', messages, max_tokens: 2 });
    const stream = await client.chat.completions.create({
      model: 'tiny',
      messages,
      stream: true,
      response_format: {
        type: 'json_schema',
        json_schema: { name: 'n', schema: { type: 'array', items: { type: 'integer' }, minItems: 900 } },
      },
    });
    const before = engines.get(path('random'))?.pid;
    const reading = (async () => {
      for await (const chunk of stream) if (chunk.choices[0]?.delta.content) process.kill(before ?? 0, 'SIGSTOP');
      return 'ended';
    })().catch((error: unknown) => error);
    await client.chat.completions.create({ model: 'other', messages, max_tokens: 2 });
    const failure = await reading;
    expect(failure).toBeInstanceOf(OpenAI.APIError);
    expect((failure as Error).message).toContain('hung');
    const refused = await client.chat.completions.create({ model: 'tiny', messages }).catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 503, message: expect.stringContaining('hung') });
    expect(Number((refused as { headers: Headers }).headers.get('retry-after'))).toBeGreaterThan(0);
    await client.chat.completions.create({ model: 'other', messages, max_tokens: 2 });
    const running = engines.get(path('random'));
    while (running?.health().state === 'failed') await new Promise((resolve) => setTimeout(resolve, 50));
    await client.chat.completions.create({ model: 'tiny', messages, max_tokens: 2 });
    expect(running?.pid).not.toBe(before);
    expect(await (await fetch(`${url}/health`)).json()).toMatchObject({
      models: { tiny: { state: 'ready', restarts: expect.any(Number) }, other: { state: 'ready', restarts: 0 } },
    });
  },
  300_000,
);

withLlama(
  'an engine that takes more memory than it may: 503 with both figures, and others go on (needs node-llama-cpp)',
  async () => {
    const { client } = await serve({
      large: { path: path('random'), maxMemoryBytes: 40 * 1_048_576 },
      other: { path: path('bigram'), maxMemoryBytes: 4_096 * 1_048_576 },
    });
    const refused = await client.chat.completions.create({ model: 'large', messages }).catch((error: unknown) => error);
    expect(refused).toMatchObject({
      status: 503,
      code: 'insufficient_memory',
      message: expect.stringContaining('40 MiB'),
    });
    await client.chat.completions.create({ model: 'other', messages, max_tokens: 2 });
  },
  240_000,
);
