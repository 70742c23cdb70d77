import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { Ollama } from 'ollama';
import { OpenAI } from 'openai';
import { LlamaEngine } from '../engine/index.js';
import { hasLlama } from '../engine/testing/has-llama.js';
import { makeTinyGguf } from '../engine/testing/tiny-gguf.js';
import { startGatewayApp } from '../gateway/testing/gateway-app.js';
import { type Serve, startServe } from './start-serve.js';

const withLlama = hasLlama() ? test : test.skip;
let folder: string;
let server: Serve;
let client: OpenAI;

/** A chat template that says itself how calls are written. */
const CALLING_TEMPLATE =
  "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- endif %}" +
  "{{- '# Tools\\n\\n<tools>' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '</tools><|im_end|>\\n' }}{%- endif %}" +
  "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}{%- if message.tool_calls %}" +
  '{%- for tool_call in message.tool_calls %}{{- \'<tool_call>\\n{"name": "\' + tool_call.function.name + \'", "arguments": \' + (tool_call.function.arguments | tojson) + \'}\\n</tool_call>\' }}{%- endfor %}{%- endif %}' +
  "{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-tools-'));
  const path = (name: string): string => join(folder, `${name}.gguf`);
  await makeTinyGguf({ kind: 'random', path: path('random') });
  await makeTinyGguf({ kind: 'random', path: path('templated'), chatTemplate: CALLING_TEMPLATE });
  await makeTinyGguf({
    kind: 'bigram',
    path: path('caller'),
    corpus: ['<tool_call>', 'I do not know', 'Let me see <tool_call>'],
  });
  server = await startServe({
    models: Object.fromEntries(
      ['random', 'templated', 'caller'].map((name) => [name, { path: path(name), parallelSequences: 8 }]),
    ),
    port: 0,
    maxQueueDepth: 200,
    openEngine: ({ path: modelPath, ...options }) => new LlamaEngine({ modelPath, ...options, threads: 1 }),
  });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const weather = {
  type: 'object',
  properties: {
    city: { type: 'string', maxLength: 12 },
    days: { type: 'integer', minimum: 1, maximum: 14 },
    unit: { enum: ['°C', '°F'] },
  },
  required: ['city', 'days', 'unit'],
  additionalProperties: false,
};
const lookup = {
  type: 'object',
  properties: { ids: { type: 'array', items: { type: 'integer' }, maxItems: 3 }, deep: { type: 'boolean' } },
  required: ['ids'],
};
const SCHEMAS: Readonly<Record<string, object>> = {
  get_weather: weather,
  get: lookup,
  now: { type: 'object', maxProperties: 0 },
};
const tools = [
  { type: 'function' as const, function: { name: 'get_weather', description: 'Weather "there"', parameters: weather } },
  { type: 'function' as const, function: { name: 'get', parameters: lookup } },
  { type: 'function' as const, function: { name: 'now' } },
];
const messages = [{ role: 'user' as const, content: 'How is the weather?' }];
const validators = new Map(Object.entries(SCHEMAS).map(([name, schema]) => [name, new Ajv2020().compile(schema)]));

interface Called {
  readonly function: { readonly name: string; readonly arguments: string };
}
function expectValid(calls: readonly Called[]): void {
  for (const { function: called } of calls) {
    const value: unknown = JSON.parse(called.arguments);
    expect({ ...called, valid: validators.get(called.name)?.(value) }).toEqual({ ...called, valid: true });
  }
}
const functionCalls = (calls: readonly OpenAI.Chat.ChatCompletionMessageToolCall[] | undefined) =>
  (calls ?? []).filter((call) => call.type === 'function');

withLlama.each([
  ['random', 100],
  ['templated', 40],
] as const)(
  'random weights in the form of %s: %i of as many calls are valid (needs node-llama-cpp)',
  async (model, count) => {
    // Left to themselves, the weights of a file prefer one name.
    const choices = ['required', 'get_weather', 'get', 'now'].map((name) =>
      name === 'required' ? ('required' as const) : { type: 'function' as const, function: { name } },
    );
    const answers = await Promise.all(
      Array.from({ length: count }, (_, seed) =>
        client.chat.completions.create({
          model,
          messages,
          tools,
          tool_choice: choices[seed % choices.length] ?? 'required',
          seed,
          max_tokens: 600,
        }),
      ),
    );
    const names = new Set<string>();
    for (const {
      choices: [choice],
    } of answers) {
      expect(choice?.finish_reason).toBe('tool_calls');
      expect(choice?.message.content).toBeNull();
      const calls = functionCalls(choice?.message.tool_calls);
      expect(calls).toHaveLength(1);
      expect(calls[0]?.id).toMatch(/^call_\w+$/);
      expectValid(calls);
      names.add(calls[0]?.function.name ?? '');
    }
    expect(names).toEqual(new Set(['get_weather', 'get', 'now']));
  },
  300_000,
);

withLlama(
  'a model that may call does so once, several times, or not at all; whatever it calls is valid (needs node-llama-cpp)',
  async () => {
    const ask = (seed: number, parallel: boolean) =>
      client.chat.completions.create({
        model: 'caller',
        messages,
        tools,
        seed,
        temperature: 1,
        max_tokens: 900,
        parallel_tool_calls: parallel,
      });
    const seen = new Set<string>();
    for (const parallel of [true, false]) {
      const answers = await Promise.all(Array.from({ length: 30 }, (_, seed) => ask(seed, parallel)));
      for (const {
        choices: [choice],
      } of answers) {
        const calls = functionCalls(choice?.message.tool_calls);
        expect(JSON.stringify(choice?.message.content)).not.toContain('<tool');
        if (choice?.finish_reason === 'length') continue;
        expect(choice?.finish_reason).toBe(calls.length > 0 ? 'tool_calls' : 'stop');
        expectValid(calls);
        expect(new Set(calls.map(({ id }) => id)).size).toBe(calls.length);
        const text = choice?.message.content ?? '';
        seen.add(`${calls.length === 0 ? 'none' : calls.length === 1 ? 'one' : 'several'}${parallel ? '' : ' alone'}`);
        if (calls.length > 0 && text.includes('see')) seen.add('text before');
      }
    }
    for (const kind of ['none', 'one', 'several', 'one alone', 'text before']) expect(seen).toContain(kind);
    expect(seen).not.toContain('several alone');
  },
  300_000,
);

withLlama(
  'a stream has an id and a name, then pieces of arguments, then the reason (needs node-llama-cpp)',
  async () => {
    const ask = {
      model: 'random',
      messages,
      tools,
      tool_choice: { type: 'function', function: { name: 'get_weather' } },
      seed: 3,
    } as const;
    const whole = await client.chat.completions.create(ask);
    const stream = client.chat.completions.stream({ ...ask, stream_options: { include_usage: true } });
    const pieces: OpenAI.Chat.ChatCompletionChunk.Choice.Delta.ToolCall[] = [];
    for await (const chunk of stream) pieces.push(...(chunk.choices[0]?.delta.tool_calls ?? []));
    expect(pieces[0]).toMatchObject({ index: 0, type: 'function', function: { name: 'get_weather', arguments: '' } });
    expect(pieces.length).toBeGreaterThan(1);
    expect(pieces.slice(1).every(({ id, function: called }) => id === undefined && called?.name === undefined)).toBe(
      true,
    );
    const final = await stream.finalChatCompletion();
    expect(final.choices[0]?.finish_reason).toBe('tool_calls');
    expect(final.usage?.completion_tokens).toBeGreaterThan(0);
    const [streamed] = functionCalls(final.choices[0]?.message.tool_calls);
    expectValid(streamed === undefined ? [] : [streamed]);
    expect(streamed?.function).toMatchObject(functionCalls(whole.choices[0]?.message.tool_calls)[0]?.function ?? {});
  },
  240_000,
);

withLlama.each(['caller', 'templated'])(
  'runTools of the client runs what %s calls, and the conversation goes on with the results (needs node-llama-cpp)',
  async (model) => {
    const given: unknown[] = [];
    const runner = client.chat.completions.runTools(
      {
        model,
        messages,
        temperature: 1,
        seed: 7,
        max_tokens: 200,
        tool_choice: { type: 'function', function: { name: 'get_weather' } },
        tools: [
          {
            type: 'function',
            function: {
              name: 'get_weather',
              description: 'Weather',
              parameters: weather,
              parse: JSON.parse,
              function: (args: object) => {
                given.push(args);
                return 'It rains. <|im_end|>';
              },
            },
          },
        ],
      },
      { maxChatCompletions: 2 },
    );
    await runner.done();
    expect(given.length).toBeGreaterThan(0);
    for (const value of given) expect(validators.get('get_weather')?.(value)).toBe(true);
    const after = await client.chat.completions.create({
      model,
      messages: runner.messages,
      max_tokens: 5,
      tools,
      tool_choice: 'none',
    });
    expect(after.choices[0]?.message.tool_calls).toBeUndefined();
    expect(after.usage?.prompt_tokens).toBeGreaterThan(60);
  },
  240_000,
);

withLlama(
  'beside a format, an answer is either of the format or calls (needs node-llama-cpp)',
  async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, seed) =>
        client.chat.completions.create({
          model: 'caller',
          messages,
          tools,
          seed,
          temperature: 1,
          max_tokens: 400,
          parallel_tool_calls: false,
          response_format: { type: 'json_schema', json_schema: { name: 'a', schema: { enum: ['yes', 'no'] } } },
        }),
      ),
    );
    const reasons = new Set<string>();
    for (const {
      choices: [choice],
    } of answers) {
      reasons.add(choice?.finish_reason ?? '');
      if (choice?.finish_reason === 'stop') expect(['yes', 'no']).toContain(JSON.parse(choice.message.content ?? ''));
      if (choice?.finish_reason === 'tool_calls') expectValid(functionCalls(choice.message.tool_calls));
    }
    expect(reasons).toContain('tool_calls');
    expect(reasons).toContain('stop');
  },
  240_000,
);

withLlama(
  "Ollama's client has its calls with arguments as objects, streamed and whole (needs node-llama-cpp)",
  async () => {
    const ollama = new Ollama({ host: server.url });
    const options = { temperature: 1, num_predict: 900 };
    let called = 0;
    for (let seed = 0; seed < 12; seed += 1) {
      const whole = await ollama.chat({ model: 'caller', messages, tools, options: { ...options, seed } });
      let calls: { function: { name: string; arguments: object } }[] = [];
      for await (const part of await ollama.chat({
        model: 'caller',
        messages,
        tools,
        stream: true,
        options: { ...options, seed },
      })) {
        calls = [...calls, ...(part.message.tool_calls ?? [])];
      }
      expect(calls).toEqual(whole.message.tool_calls ?? []);
      for (const { function: one } of calls) expect(validators.get(one.name)?.(one.arguments)).toBe(true);
      if (calls.length === 0) continue;
      called += 1;
      const results = calls.map(({ function: one }) => ({ role: 'tool', tool_name: one.name, content: '12 °C' }));
      await ollama.chat({
        model: 'caller',
        messages: [...messages, whole.message, ...results],
        options: { num_predict: 2 },
      });
    }
    expect(called).toBeGreaterThan(0);
  },
  300_000,
);

withLlama.each(['openAi', 'ollama'] as const)(
  'through the gateway to the same server as %s: calls whole and streamed, results, and what is not passed on (needs node-llama-cpp)',
  async (kind) => {
    const app = await startGatewayApp({ [kind]: server.url });
    const own = new OpenAI({ baseURL: `${app.url}/v1`, apiKey: 'none', maxRetries: 0 });
    try {
      let called = 0;
      for (let seed = 0; seed < 8; seed += 1) {
        const ask = { model: 'caller', messages, tools, seed, temperature: 1, max_tokens: 900 };
        const whole = await own.chat.completions.create(ask);
        const [choice] = whole.choices;
        const calls = functionCalls(choice?.message.tool_calls);
        expectValid(calls);
        if (choice?.finish_reason !== 'length') {
          expect(choice?.finish_reason).toBe(calls.length > 0 ? 'tool_calls' : 'stop');
        }
        const final = await own.chat.completions.stream(ask).finalChatCompletion();
        const streamed = functionCalls(final.choices[0]?.message.tool_calls);
        expect(streamed.map((one) => one.function.name)).toEqual(calls.map((one) => one.function.name));
        if (calls.length === 0 || choice === undefined || choice.finish_reason === 'length') continue;
        expectValid(streamed);
        called += 1;
        const results = calls.map(({ id }) => ({ role: 'tool' as const, tool_call_id: id, content: '12 °C' }));
        const next = await own.chat.completions.create({
          model: 'caller',
          messages: [...messages, choice.message, ...results],
          max_tokens: 2,
        });
        expect(next.usage?.prompt_tokens).toBeGreaterThan(40);
      }
      expect(called).toBeGreaterThan(0);
      for (const [body, param] of [
        [{ tools, tool_choice: 'required' }, 'tool_choice'],
        [{ tools, parallel_tool_calls: false }, 'parallel_tool_calls'],
        [{ tools: [{ type: 'web_search' }] }, 'tools.0.type'],
        [{ tools: [named('a b')] }, 'tools.0.function.name'],
      ] as const) {
        const refused = own.chat.completions.create({ model: 'caller', messages, ...(body as object) });
        await expect(refused).rejects.toMatchObject({ status: 400, param });
      }
      const elsewhere = await fetch(`${app.url}/api/v1/inference`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model_id: 'caller', messages: [user, call('{}'), result('c1')] }),
      });
      expect([elsewhere.status, await elsewhere.text()]).toEqual([
        400,
        expect.stringContaining('messages.1.tool_calls'),
      ]);
    } finally {
      await app.stop();
    }
  },
  240_000,
);

const user = { role: 'user', content: 'x' };
const call = (given: string, id = 'c1') => ({
  role: 'assistant',
  content: null,
  tool_calls: [{ id, type: 'function', function: { name: 'get', arguments: given } }],
});
const result = (id: string) => ({ role: 'tool', tool_call_id: id, content: '1' });
const named = (name: string, parameters: object = lookup) => ({ type: 'function', function: { name, parameters } });
test.each([
  [
    'a keyword that no grammar holds to',
    { tools: [named('f', { type: 'object', properties: { a: { pattern: 'x' } } })] },
    'tools.0.function.parameters',
  ],
  ['parameters that are no object', { tools: [named('f', { type: 'string' })] }, 'tools.0.function.parameters'],
  ['a name of other letters', { tools: [named('a b')] }, 'tools.0.function.name'],
  ['a name twice', { tools: [named('f'), named('f')] }, 'tools.1.function.name'],
  ['a tool that is no function', { tools: [{ ...named('f'), type: 'web_search' }] }, 'tools.0.type'],
  ['too many', { tools: Array.from({ length: 129 }, (_, index) => named(`f${index}`)) }, 'tools'],
  ['too long schemas', { tools: [named('f', { ...lookup, description: 'x'.repeat(300_000) })] }, 'tools'],
  [
    'a choice of none of them',
    { tools, tool_choice: { type: 'function', function: { name: 'other' } } },
    'tool_choice',
  ],
  ['an unknown choice', { tools, tool_choice: 'perhaps' }, 'tool_choice'],
  ['a call required without tools', { tool_choice: 'required' }, 'tool_choice'],
  ['a call without its result', { messages: [user, call('{}'), user] }, 'messages.2'],
  ['a result without its call', { messages: [user, result('c1')] }, 'messages.1.tool_call_id'],
  ['a result of another call', { messages: [user, call('{}'), result('c2')] }, 'messages.2.tool_call_id'],
  [
    'arguments that are not JSON',
    { messages: [user, call('{'), result('c1')] },
    'messages.1.tool_calls.0.function.arguments',
  ],
])('%s is refused with the field', async (_name, body, param) => {
  const refused = await client.chat.completions
    .create({ model: 'random', messages, ...(body as object) })
    .catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(OpenAI.BadRequestError);
  expect(refused).toMatchObject({ status: 400, param });
});
