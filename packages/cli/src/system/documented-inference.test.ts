// The snippets of the documented pages on inference, in TypeScript, against a real coordinator, whose gateway asks a real
// `octomil serve` for models that are made here. Only keys, addresses and what so small a model can say are others.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Coordinator, startCoordinator } from '@octomil/coordinator';
import { type Serve, startServe } from '@octomil/inference/serve';
import { hasLlama, makeTinyGguf } from '@octomil/inference/testing';
import {
  assignTiers,
  ChatMessage,
  Client,
  type ClientOptions,
  embed,
  type InferenceOptions,
  type ModelInfo,
  OctoAI,
  OctomilClientError,
  QueryRouter,
  StreamingInferenceClient,
  streamInference,
} from '@octomil/sdk';
import { QueueFullError, RequestQueue } from '@octomil/sdk/batch';
import { checkDeterministic } from '@octomil/sdk/routing';
import OpenAI from 'openai';

const SERVE_KEY = 'sk-local';

let folder: string;
let serve: Serve;
let coordinator: Coordinator;
let access: ClientOptions & InferenceOptions;
let written = '';
/** In place of standard output. */
const write = (text: string): void => {
  written += text;
};

async function start(): Promise<void> {
  folder = await mkdtemp(join(tmpdir(), 'octomil-documented-inference-'));
  const path = join(folder, 'tiny.gguf');
  await makeTinyGguf({ kind: 'bigram', path });
  await writeFile(join(folder, 'models.yaml'), 'models:\n  "phi-4-mini:1.0.0": ./tiny.gguf\n');
  const names = ['phi-4-mini', 'meta-llama-3-8b-instruct', 'nomic-embed-text'];
  const models = Object.fromEntries(names.map((name) => [name, { path }]));
  serve = await startServe({ models, port: 0, apiKey: SERVE_KEY, preload: false });
  coordinator = await startCoordinator({
    database: 'memory',
    environment: {
      OCTOMIL_LOG_LEVEL: 'error',
      // Nobody listens there: what follows is asked instead.
      OLLAMA_BASE_URL: 'http://127.0.0.1:9',
      OPENAI_API_ENDPOINT: `${serve.url}/v1`,
      OPENAI_API_KEY: SERVE_KEY,
      LLM_BACKEND_TIMEOUT: '30',
    },
  });
  access = { apiKey: coordinator.bootstrapApiKey, apiBase: `${coordinator.restUrl}/api/v1`, localUrl: false };
}

async function stop(): Promise<void> {
  await coordinator?.stop();
  await serve?.stop();
  await rm(folder, { recursive: true });
}

async function post(path: string, body: unknown): Promise<Response> {
  return fetch(`${coordinator.restUrl}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${coordinator.bootstrapApiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
}

(hasLlama() ? describe : describe.skip)('with node-llama-cpp', () => {
  beforeAll(start, 60_000);
  afterAll(stop, 60_000);

  describe('Python SDK', () => {
    test('quick start, cloud inference: predict', async () => {
      const client = new Client({ ...access, orgId: coordinator.organizationId });
      // Run inference — routed on-device or cloud based on device capabilities
      const result = await client.predict('phi-4-mini', {
        messages: [{ role: 'user', content: 'Summarise federated learning in one paragraph.' }],
        maxTokens: 256,
        temperature: 0.7,
        topP: 1.0,
      });
      expect(`${result}`).toMatch(/\w/);
      expect(result.metrics).toMatchObject({
        route: { target: 'cloud', engine: 'gateway' },
        provider: 'openai',
        promptTokens: expect.any(Number),
        completionTokens: expect.any(Number),
      });
    });

    test('loadModel()', async () => {
      const client = new Client({ ...access, modelsFile: join(folder, 'models.yaml') });
      const model = await client.loadModel('phi-4-mini', {
        version: '1.0.0', // default: latest
        engine: 'llama.cpp', // optional engine override
        cacheSizeMb: 2048,
      });
      const prediction = await model.predict([{ role: 'user', content: 'Hello' }], { maxTokens: 128 });
      expect(prediction.text).toMatch(/\w/);
      expect(prediction.metrics.route).toMatchObject({ target: 'device', engine: 'llama.cpp' });
      await client.dispose();
    });

    test('cloud streaming', async () => {
      const client = new Client(access);
      written = '';
      for await (const token of client.streamPredict(
        'phi-4-mini',
        [{ role: 'user', content: 'Write a haiku about edge AI.' }],
        { parameters: { temperature: 0.8, maxTokens: 64 }, timeoutMs: 120_000 },
      )) {
        write(token.token);
        expect(token).toMatchObject({
          provider: 'openai',
          latencyMs: expect.any(Number),
          sessionId: expect.any(String),
        });
        if (token.done) break;
      }
      expect(written).toMatch(/\w/);

      written = '';
      const ends: boolean[] = [];
      for await (const token of client.streamPredict('phi-4-mini', 'Explain quantum computing briefly.', {
        parameters: { maxTokens: 128 },
      })) {
        write(token.token);
        ends.push(token.done);
      }
      expect(written).toMatch(/\w/);
      expect(ends.indexOf(true)).toBe(ends.length - 1);
    });

    test('standalone streaming function', async () => {
      written = '';
      for await (const token of streamInference({
        serverUrl: `${coordinator.restUrl}/api/v1`,
        apiKey: String(coordinator.bootstrapApiKey),
        modelId: 'phi-4-mini',
        inputData: [{ role: 'user', content: 'Hello' }],
        parameters: { temperature: 0.7 },
        timeoutMs: 120_000,
      })) {
        write(token.token);
      }
      expect(written).toMatch(/\w/);
    });

    test('local streaming (on-device)', async () => {
      const client = new Client({ ...access, localUrl: serve.url, localApiKey: SERVE_KEY });
      written = '';
      const stream = client.predictStream('phi-4-mini', {
        messages: [{ role: 'user', content: 'Hello' }],
        maxTokens: 256,
        temperature: 0.7,
      });
      for await (const chunk of stream) write(`${chunk}`);
      expect(written).toMatch(/\w/);
      expect(stream.metrics).toMatchObject({
        route: { target: 'device', engine: 'serve' },
        timeToFirstChunkMs: expect.any(Number),
        chunksPerSecond: expect.any(Number),
      });
    });

    test('embeddings', async () => {
      const client = new Client(access);
      const result = await client.embed({
        modelId: 'nomic-embed-text',
        input: 'Federated learning preserves data privacy.',
        timeoutMs: 30_000,
      });
      expect(result.embeddings).toHaveLength(1); // one vector per input string
      expect(result.model).toBe('nomic-embed-text');
      expect(result.usage.promptTokens).toBeGreaterThan(0);
      expect(result.usage.totalTokens).toBe(result.usage.promptTokens);

      const batch = await client.embed({
        modelId: 'nomic-embed-text',
        input: [
          'On-device inference reduces latency.',
          'Smart routing optimises cost and quality.',
          'Federated learning keeps data on-device.',
        ],
      });
      const dimensions = batch.embeddings.map((vector) => vector.length);
      expect(dimensions).toEqual(Array.from({ length: 3 }, () => result.embeddings[0]?.length));
    });

    test('standalone embed() function', async () => {
      const result = await embed({
        serverUrl: `${coordinator.restUrl}/api/v1`,
        apiKey: String(coordinator.bootstrapApiKey),
        modelId: 'nomic-embed-text',
        input: ['hello', 'world'],
        timeoutMs: 30_000,
      });
      expect(result.embeddings).toHaveLength(2);
      expect(result.embeddings[0]).not.toEqual(result.embeddings[1]);
    });

    test('error handling', async () => {
      const client = new Client(access);
      const error = await client.predict('phi-5-mini', { input: 'Hello' }).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(OctomilClientError);
      expect(error).toMatchObject({ code: 'model_not_found', reason: expect.stringContaining('phi-4-mini') });
    });

    test('quality evaluation: what ran here and what ran there, by model', async () => {
      const client = new StreamingInferenceClient({
        ...access,
        localUrl: serve.url,
        localApiKey: SERVE_KEY,
        deviceId: 'bedside-7',
      });
      written = '';
      for await (const chunk of client.generate('phi-4-mini', 'Hello', { maxTokens: 32 })) write(chunk.text);
      expect(client.lastResult).toMatchObject({
        timeToFirstChunkMs: expect.any(Number),
        meanChunkLatencyMs: expect.any(Number),
        chunksPerSecond: expect.any(Number),
        latencyMs: expect.any(Number),
      });
      await client.dispose();
      const api = new Client(access);
      const metrics = await api.inferenceMetrics({ model: 'phi-4-mini', groupBy: ['model', 'device'] });
      expect(metrics).toContainEqual(
        expect.objectContaining({ modelId: 'phi-4-mini', deviceId: 'bedside-7', started: 1, completed: 1, failed: 0 }),
      );
      const inTheCloud = metrics.find(({ deviceId }) => deviceId === '');
      expect(inTheCloud?.ttfcMs?.p50).toEqual(expect.any(Number));
      const policy = api.routingPolicy();
      expect(await policy.current()).toMatchObject({ fastThreshold: expect.any(Number) });
      expect(policy.problem).toBeUndefined();
    });
  });

  describe('Cloud inference', () => {
    test('single-shot inference', async () => {
      const response = await post('/api/v1/inference', {
        model_id: 'phi-4-mini',
        messages: [{ role: 'user', content: 'Explain gradient descent' }],
        parameters: { temperature: 0.7, max_tokens: 256 },
      });
      expect(await response.json()).toMatchObject({
        output: expect.stringMatching(/\w/),
        latency_ms: expect.any(Number),
        provider: 'openai',
        model_id: 'phi-4-mini',
      });
    });

    test('streaming inference', async () => {
      const response = await post('/api/v1/inference/stream', {
        model_id: 'phi-4-mini',
        messages: [{ role: 'user', content: 'Write a haiku' }],
      });
      expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/);
      const lines = (await response.text()).split('\n').filter((line) => line.startsWith('data: '));
      const events = lines.map((line) => JSON.parse(line.slice(6)) as { token: string; done: boolean });
      expect(events[0]).toMatchObject({ token: expect.any(String), done: false, provider: 'openai' });
      expect(events.at(-1)).toMatchObject({ token: '', done: true, provider: 'openai' });
    });

    test('batch inference', async () => {
      const response = await post('/api/v1/inference/batch', {
        model_id: 'phi-4-mini',
        inputs: [
          { messages: [{ role: 'user', content: 'Hello' }] },
          { messages: [{ role: 'user', content: 'Goodbye' }] },
        ],
        max_concurrency: 4,
      });
      const { results } = (await response.json()) as { results: unknown[] };
      expect(results).toEqual([
        expect.objectContaining({ index: 0, output: expect.any(String) }),
        expect.objectContaining({ index: 1, output: expect.any(String) }),
      ]);
    });

    test('backend health check', async () => {
      const response = await fetch(`${coordinator.restUrl}/api/v1/inference/health`, {
        headers: { authorization: `Bearer ${coordinator.bootstrapApiKey}` },
      });
      expect(response.status).toBe(200);
      const { backends } = (await response.json()) as { backends: unknown[] };
      expect(backends).toHaveLength(2);
    });
  });

  describe('POST /v1/chat/completions', () => {
    const connect = (): OpenAI => new OpenAI({ baseURL: `${serve.url}/v1`, apiKey: SERVE_KEY });

    test('request and response', async () => {
      const client = connect();
      const response = await client.chat.completions.create({
        model: 'phi-4-mini',
        messages: [
          { role: 'system', content: 'You are a helpful assistant.' },
          { role: 'user', content: 'Why is the sky blue?' },
        ],
      });
      expect(response).toMatchObject({
        id: expect.stringMatching(/^chatcmpl-/),
        object: 'chat.completion',
        created: expect.any(Number),
        model: 'phi-4-mini',
        choices: [{ index: 0, message: { role: 'assistant', content: expect.stringMatching(/\w/) } }],
        usage: { prompt_tokens: expect.any(Number), completion_tokens: expect.any(Number) },
      });
      const { usage } = response;
      expect(usage?.total_tokens).toBe((usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0));
    });

    test('streaming', async () => {
      const stream = await connect().chat.completions.create({
        model: 'phi-4-mini',
        messages: [{ role: 'user', content: 'Count to 5' }],
        stream: true,
      });
      written = '';
      const reasons: unknown[] = [];
      for await (const chunk of stream) {
        expect(chunk.object).toBe('chat.completion.chunk');
        write(chunk.choices[0]?.delta.content ?? '');
        reasons.push(chunk.choices[0]?.finish_reason);
      }
      expect(written).toMatch(/\w/);
      expect(reasons.at(-1)).toMatch(/^(?:stop|length)$/);
    });

    test('JSON mode', async () => {
      const response = await connect().chat.completions.create({
        model: 'phi-4-mini',
        messages: [{ role: 'user', content: 'List 3 programming languages as JSON.' }],
        response_format: { type: 'json_object' },
      });
      const [choice] = response.choices;
      // One that was cut at its limit says so.
      if (choice?.finish_reason === 'stop') expect(typeof JSON.parse(choice.message.content ?? '')).toBe('object');
      else expect(choice?.finish_reason).toBe('length');
    });

    test('automatic routing says which model it was, and nothing that was not', async () => {
      const { response } = await connect()
        .chat.completions.create({ model: 'auto', messages: [{ role: 'user', content: 'hello' }], max_tokens: 4 })
        .withResponse();
      expect(response.headers.get('x-octomil-routed-model')).toMatch(/phi|llama|nomic/);
      expect(response.headers.get('x-octomil-speculative')).toBeNull();
      expect(response.headers.get('x-octomil-compression')).toBeNull();
    });

    test('errors', async () => {
      const messages = [{ role: 'user' as const, content: 'hello' }];
      const client = connect();
      await expect(client.chat.completions.create({ model: 'phi-4-mini', messages: [] })).rejects.toMatchObject({
        status: 400,
        code: 'bad_request',
      });
      await expect(client.chat.completions.create({ model: 'nobody', messages })).rejects.toMatchObject({
        status: 404,
      });
      const stranger = new OpenAI({ baseURL: `${serve.url}/v1`, apiKey: 'not-needed' });
      await expect(stranger.chat.completions.create({ model: 'phi-4-mini', messages })).rejects.toMatchObject({
        status: 401,
      });
    });
  });

  describe('OctoAI text generation', () => {
    const messages = [
      new ChatMessage({
        role: 'system',
        content:
          'Below is an instruction that describes a task. Write a response that appropriately completes the request.',
      }),
      new ChatMessage({ role: 'user', content: 'Write a blog about Seattle' }),
    ];

    test.each(['the gateway', 'octomil serve'])('text generation, by %s', async (where) => {
      const client =
        where === 'octomil serve'
          ? new OctoAI({ apiBase: `${serve.url}/v1`, apiKey: SERVE_KEY })
          : new OctoAI({ apiBase: `${coordinator.restUrl}/v1`, apiKey: coordinator.bootstrapApiKey });
      const completion = await client.textGen.createChatCompletion({
        model: 'meta-llama-3-8b-instruct',
        messages,
        maxTokens: 150,
      });
      expect(JSON.parse(JSON.stringify(completion, null, 2))).toEqual({
        id: expect.any(String),
        choices: [
          {
            index: 0,
            message: { role: 'assistant', content: expect.stringMatching(/\w/), function_call: null },
            delta: null,
            finish_reason: expect.stringMatching(/^(?:stop|length)$/),
          },
        ],
        created: expect.any(Number),
        model: 'meta-llama-3-8b-instruct',
        object: 'chat.completion',
        system_fingerprint: null,
        usage: {
          completion_tokens: expect.any(Number),
          prompt_tokens: expect.any(Number),
          total_tokens: expect.any(Number),
        },
      });

      // Streaming responses
      written = '';
      for await (const piece of client.textGen.createChatCompletionStream({
        model: 'meta-llama-3-8b-instruct',
        messages,
        maxTokens: 150,
      })) {
        write(piece.choices[0]?.delta.content ?? '');
      }
      expect(written).toMatch(/\w/);
    });
  });
});

describe('Python SDK: routing', () => {
  const models: Record<string, ModelInfo> = {
    'smollm-360m': { name: 'smollm-360m', tier: 'fast', paramB: 0.36 },
    'phi-4-mini': { name: 'phi-4-mini', tier: 'balanced', paramB: 3.8 },
    'llama-3.2-3b': { name: 'llama-3.2-3b', tier: 'quality', paramB: 3.0 },
  };

  test('basic routing, and fallback', () => {
    const router = new QueryRouter(models, {
      strategy: 'complexity',
      thresholds: [0.3, 0.7], // complexity boundaries: fast | balanced | quality
      enableDeterministic: true, // intercept arithmetic without invoking a model
    });
    const decision = router.route([{ role: 'user', content: 'Write a REST API in Python' }]);
    expect(decision).toMatchObject({ modelName: 'llama-3.2-3b', tier: 'quality' }); // high complexity
    expect(decision.complexityScore).toBeGreaterThanOrEqual(0.7);
    expect(decision.fallbackChain).toEqual(['phi-4-mini', 'smollm-360m']); // ordered fallback models
    expect(router.getFallback('phi-4-mini')).toBe('llama-3.2-3b');
    expect(router.route('hello').modelName).toBe('smollm-360m');
  });

  test('deterministic tier (no model needed)', () => {
    expect(checkDeterministic('what is 2+2?')).toEqual({ answer: '4', method: 'arithmetic', confidence: 1 });
  });

  test('auto-assigned tiers, and decomposed routing', () => {
    const router = new QueryRouter(assignTiers(['smollm-360m', 'phi-4-mini', 'llama-3.2-3b']));
    const decision = router.routeDecomposed([
      { role: 'user', content: 'Explain quantum computing and write a Python sort function' },
    ]);
    expect('subDecisions' in decision && decision.tasks.map(({ text }) => text)).toHaveLength(2);
    if (!('subDecisions' in decision)) return;
    for (const { tier, modelName } of decision.subDecisions) expect(models[modelName]?.tier).toBe(tier);
  });
});

test('Python SDK: batch inference', async () => {
  const queue = new RequestQueue({ maxDepth: 32, timeoutMs: 60_000 });
  queue.start();
  const engine = {
    generate: async (request: string): Promise<string> => request.toUpperCase(),
    async *stream(request: string): AsyncGenerator<string> {
      yield* request.split(' ');
    },
  };
  // Submit a non-streaming request
  expect(await queue.submitGenerate('hello there', { generateFn: engine.generate })).toBe('HELLO THERE');
  // Submit a streaming request
  written = '';
  for await (const chunk of queue.submitGenerateStream('hello there', { generateStreamFn: engine.stream }))
    write(chunk);
  expect(written).toBe('hellothere');
  // Check queue stats
  expect(queue.stats()).toEqual({ pending: 0, active: 0, maxDepth: 32 });
  // Shutdown
  await queue.stop();

  const full = new RequestQueue({ maxDepth: 0 });
  const held = Promise.withResolvers<string>();
  const running = full.submitGenerate('x', { generateFn: () => held.promise });
  await expect(full.submitGenerate('y', { generateFn: engine.generate })).rejects.toBeInstanceOf(QueueFullError);
  held.resolve('done');
  expect(await running).toBe('done');
});
