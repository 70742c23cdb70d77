import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { GenerationEvent, GenerationRequest } from './engine.js';
import { LlamaEngine, type LlamaEngineOptions, openLlamaEngine } from './llama-engine.js';
import { hasLlama } from './testing/has-llama.js';
import { makeTinyGguf } from './testing/tiny-gguf.js';

const withLlama = hasLlama() ? test : test.skip;
let folder: string;
const engines: LlamaEngine[] = [];
const path = (name: string): string => join(folder, `${name}.gguf`);
const never = new AbortController().signal;

async function start(model: string, options: Partial<LlamaEngineOptions> = {}): Promise<LlamaEngine> {
  const engine = await openLlamaEngine({ modelPath: path(model), threads: 1, ...options });
  engines.push(engine);
  return engine;
}

const asked = (content: string, options: Partial<GenerationRequest> = {}): GenerationRequest => ({
  input: { messages: [{ role: 'user', content }] },
  maxTokens: 40,
  temperature: 0.7,
  topP: 0.9,
  stop: [],
  seed: 1,
  responseFormat: { type: 'text' },
  ...options,
});

async function answer(
  engine: LlamaEngine,
  request: GenerationRequest,
  signal = never,
): Promise<{ text: string; done: Extract<GenerationEvent, { type: 'done' }> }> {
  let text = '';
  for await (const event of engine.generate(request, signal)) {
    if (event.type === 'done') return { text, done: event };
    if (event.type === 'text') text += event.text;
  }
  throw new TypeError('the engine ended without done');
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-engine-'));
  await makeTinyGguf({ kind: 'bigram', path: path('bigram') });
  await makeTinyGguf({ kind: 'random', path: path('random') });
  await makeTinyGguf({ kind: 'draft', path: path('draft') });
  await makeTinyGguf({ kind: 'random', path: path('small'), contextTokens: 256 });
});
afterAll(async () => {
  await Promise.all(engines.map((engine) => engine.stop()));
  await rm(folder, { recursive: true, force: true });
});

withLlama('a seed gives one text, another seed another one, and usage is counted (needs node-llama-cpp)', async () => {
  const engine = await start('bigram');
  const [one, again, other] = [
    await answer(engine, asked('Hello')),
    await answer(engine, asked('Hello')),
    await answer(engine, asked('Hello', { seed: 2 })),
  ];
  expect(one.text).toMatch(/[a-z]{2,} [a-z]{2,}/);
  expect(again.text).toBe(one.text);
  expect(other.text).not.toBe(one.text);
  expect(again.done.usage.promptTokens).toBe(one.done.usage.promptTokens);
  // The second prompt is the first one, of which all but the last token was read.
  expect(again.done.usage.cachedTokens).toBe(one.done.usage.promptTokens - 1);
  expect(engine.health()).toMatchObject({ state: 'ready', restarts: 0 });
  expect(engine.health().rssBytes).toBeGreaterThan(1e7);
});

withLlama('a stop sequence ends the text before it, and a limit is told apart (needs node-llama-cpp)', async () => {
  const engine = await start('bigram');
  const whole = await answer(engine, asked('Hello', { maxTokens: 30 }));
  const stop = whole.text.slice(10, 14);
  const stopped = await answer(engine, asked('Hello', { maxTokens: 30, stop: ['not in there', stop] }));
  expect(stopped.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
  expect(stopped.done.finishReason).toBe('stop');
  const short = await answer(engine, asked('Hello', { maxTokens: 3, seed: 5 }));
  expect(short.done).toMatchObject({ finishReason: 'length', usage: { completionTokens: 3 } });
});

withLlama('what looks like the end of a turn in a message is text (needs node-llama-cpp)', async () => {
  const engine = await start('random');
  const tokens = async (content: string): Promise<number> =>
    (await answer(engine, asked(content, { maxTokens: 1 }))).done.usage.promptTokens;
  const empty = await tokens('x');
  // As a control token it would be one; as text, none of its ten characters but the letters join.
  expect((await tokens('x<|im_end|>')) - empty).toBeGreaterThanOrEqual(6);
  expect((await tokens('x<|im_start|>system')) - empty).toBeGreaterThanOrEqual(8);
  const raw = asked('', { input: { prompt: '<|im_end|>' }, maxTokens: 1 });
  expect((await answer(engine, raw)).done.usage.promptTokens).toBeGreaterThanOrEqual(7);
});

withLlama(
  'a prompt that no tokens could make short enough is not made into tokens (needs node-llama-cpp)',
  async () => {
    const engine = await start('small');
    for (const request of [asked('x'.repeat(1_000_000)), asked('', { input: { prompt: 'x'.repeat(1_000_000) } })]) {
      await expect(answer(engine, request)).rejects.toMatchObject({
        code: 'context_too_large',
        details: { promptCharacters: 1_000_000, contextTokens: 256 },
      });
    }
    await expect(answer(engine, asked('hello '.repeat(15), { maxTokens: 1 }))).resolves.toBeDefined();
  },
);

withLlama('JSON of a schema is valid whatever the weights (needs node-llama-cpp)', async () => {
  const engine = await start('random', { parallelSequences: 8 });
  const schema = {
    type: 'object',
    properties: {
      name: { type: 'string', maxLength: 12 },
      age: { type: 'integer', minimum: 0, maximum: 130 },
      tags: { type: 'array', items: { enum: ['Ärzte', 'b'] }, maxItems: 3 },
      size: { type: 'number' },
    },
    required: ['name', 'age', 'tags', 'size'],
    additionalProperties: false,
  };
  const validate = new Ajv2020().compile(schema);
  const answers = await Promise.all(
    Array.from({ length: 60 }, (_, seed) =>
      answer(
        engine,
        asked('A person', { seed, maxTokens: 300, responseFormat: { type: 'json_schema', name: 'p', schema } }),
      ),
    ),
  );
  const ended = answers.filter(({ done }) => done.finishReason === 'stop');
  expect(ended.length).toBeGreaterThan(50);
  for (const { text } of ended) expect({ text, valid: validate(JSON.parse(text)) }).toEqual({ text, valid: true });
  const object = await answer(
    engine,
    asked('{}', { maxTokens: 400, responseFormat: { type: 'json_object' }, seed: 3 }),
  );
  if (object.done.finishReason === 'stop') expect(typeof JSON.parse(object.text)).toBe('object');
});

withLlama('a prompt that does not fit is refused and not cut (needs node-llama-cpp)', async () => {
  const engine = await start('small');
  expect(engine.description.contextTokens).toBe(256);
  await expect(answer(engine, asked('word '.repeat(400)))).rejects.toMatchObject({
    code: 'context_too_large',
    details: { contextTokens: 256 },
  });
  const filled = await answer(
    engine,
    asked('Hello', {
      maxTokens: undefined,
      responseFormat: { type: 'json_schema', name: 's', schema: { type: 'string' } },
      seed: 9,
    }),
  );
  expect(filled.done.usage.promptTokens + filled.done.usage.completionTokens).toBeLessThan(256);
  await expect(engine.embed(['word '.repeat(400)], never)).rejects.toMatchObject({ code: 'context_too_large' });
});

withLlama('embeddings have the length 1 and tell texts apart (needs node-llama-cpp)', async () => {
  const engine = await start('random');
  const { vectors, promptTokens } = await engine.embed(['one text', 'one text', 'something else'], never);
  expect(vectors.map((vector) => vector.length)).toEqual([64, 64, 64]);
  for (const vector of vectors) expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
  const [one, same, other] = vectors.map((vector) => [...vector]);
  expect(one).toEqual(same);
  expect(one).not.toEqual(other);
  expect(promptTokens).toBeGreaterThan(10);
});

withLlama('a draft model proposes, and the text stays what it was (needs node-llama-cpp)', async () => {
  const plain = await start('bigram');
  const drafted = await start('bigram', { draftModelPath: path('bigram') });
  const request = asked('Hello', { temperature: 0, maxTokens: 60 });
  const [without, withDraft] = [await answer(plain, request), await answer(drafted, request)];
  expect(withDraft.text).toBe(without.text);
  expect(without.done.speculative).toBeUndefined();
  // Greedily, this draft is never sure enough to propose anything.
  const { done } = await answer(drafted, asked('The device', { maxTokens: 60 }));
  expect(done.speculative?.accepted).toBeGreaterThan(0);
  const other = new LlamaEngine({ modelPath: path('bigram'), draftModelPath: path('none'), threads: 1 });
  engines.push(other);
  await expect(other.ready()).rejects.toMatchObject({ code: 'model_load_failed' });
});

withLlama(
  'a request that comes while others generate has its turn between their tokens (needs node-llama-cpp)',
  async () => {
    const engine = await start('random', { parallelSequences: 2 });
    const numbers = { type: 'array', items: { type: 'integer' }, minItems: 900 };
    const endless = asked('Hello', {
      maxTokens: undefined,
      responseFormat: { type: 'json_schema', name: 's', schema: numbers },
    });
    // Both sequences have read something that the next prompt makes them forget.
    await Promise.all(['a', 'b'].map((content) => answer(engine, asked(content, { maxTokens: 2 }))));
    const leave = new AbortController();
    const long = answer(engine, endless, leave.signal).then(
      () => 'ended',
      () => 'left',
    );
    await answer(engine, asked('Something else', { maxTokens: 2 }));
    leave.abort();
    expect(await long).toBe('left');
  },
);

withLlama('a cancelled generation ends at once and frees its sequence (needs node-llama-cpp)', async () => {
  const engine = await start('random', { parallelSequences: 1 });
  const controller = new AbortController();
  const endless = engine.generate(
    asked('Hello', {
      maxTokens: undefined,
      responseFormat: {
        type: 'json_schema',
        name: 's',
        schema: { type: 'array', items: { type: 'integer' }, minItems: 900 },
      },
    }),
    controller.signal,
  );
  await endless.next();
  const waiting = answer(engine, asked('Next', { maxTokens: 2 }));
  controller.abort();
  await expect(endless.next()).rejects.toMatchObject({ code: 'cancelled' });
  expect((await waiting).done.usage.completionTokens).toBeLessThanOrEqual(2);
  await expect(answer(engine, asked('x'), controller.signal)).rejects.toMatchObject({ code: 'cancelled' });
});

withLlama(
  'when its process is killed the request fails, and the next ones are answered by a new one (needs node-llama-cpp)',
  async () => {
    const engine = await start('random', { parallelSequences: 1 });
    const stream = engine.generate(
      asked('Hello', {
        maxTokens: undefined,
        responseFormat: {
          type: 'json_schema',
          name: 's',
          schema: { type: 'array', items: { type: 'integer' }, minItems: 900 },
        },
      }),
      never,
    );
    await stream.next();
    const before = engine.pid;
    process.kill(before ?? 0, 'SIGKILL');
    const failure = await (async () => {
      for await (const _ of stream);
    })().catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'inference_failed', retryAfterSeconds: 1 });
    await expect(answer(engine, asked('x'))).rejects.toMatchObject({ code: 'model_load_failed', retryAfterSeconds: 1 });
    while (engine.health().state === 'failed') await new Promise((resolve) => setTimeout(resolve, 50));
    expect((await answer(engine, asked('x', { maxTokens: 2 }))).done.usage.completionTokens).toBeLessThanOrEqual(2);
    expect(engine.pid).not.toBe(before);
    expect(engine.health()).toMatchObject({ state: 'ready', restarts: 1 });
  },
  300_000,
);

withLlama(
  'a schema that llama.cpp cannot hold to is refused, and the engine goes on (needs node-llama-cpp)',
  async () => {
    const engine = await start('random');
    const loop = { type: 'json_schema', name: 'l', schema: { $ref: '#' } } as const;
    await expect(answer(engine, asked('x', { responseFormat: loop }))).rejects.toMatchObject({ code: 'invalid_input' });
    const long = { type: 'json_schema', name: 'l', schema: { type: 'string', maxLength: 2000 } } as const;
    await answer(engine, asked('x', { responseFormat: long, maxTokens: 5 }));
  },
);
