import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { Ollama } from 'ollama';
import { LlamaEngine } from '../engine/index.js';
import { hasLlama } from '../engine/testing/has-llama.js';
import { makeTinyGguf } from '../engine/testing/tiny-gguf.js';
import { type Serve, startServe } from './start-serve.js';

const withLlama = hasLlama() ? test : test.skip;
const messages = [{ role: 'user', content: 'Tell me about the model' }];
let folder: string;
let server: Serve;
let client: Ollama;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-ollama-'));
  await makeTinyGguf({ kind: 'bigram', path: join(folder, 'tiny.gguf') });
  server = await startServe({
    models: { tiny: { path: join(folder, 'tiny.gguf'), contextTokens: 512 } },
    port: 0,
    preload: false,
    openEngine: ({ path: modelPath, ...options }) => new LlamaEngine({ modelPath, ...options, threads: 1 }),
  });
  client = new Ollama({ host: server.url });
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

withLlama(
  'the ollama client chats, streams, stops, and asks for text, JSON and vectors (needs node-llama-cpp)',
  async () => {
    const options = { seed: 4, num_predict: 30 };
    const whole = await client.chat({ model: 'tiny', messages, options });
    expect(whole).toMatchObject({ done: true, message: { role: 'assistant' } });
    expect(whole.eval_count).toBeGreaterThan(0);
    let streamed = '';
    let ended = false;
    for await (const part of await client.chat({ model: 'tiny:latest', messages, options, stream: true })) {
      streamed += part.message.content;
      ended = part.done;
    }
    expect({ streamed, ended }).toEqual({ streamed: whole.message.content, ended: true });
    const stop = streamed.slice(8, 11);
    const stopped = await client.chat({ model: 'tiny', messages, options: { ...options, stop: [stop] } });
    expect(stopped.message.content).toBe(streamed.slice(0, streamed.indexOf(stop)));

    const schema = { type: 'object', properties: { ok: { type: 'boolean' } }, required: ['ok'] };
    const held = await client.generate({ model: 'tiny', prompt: 'yes?', format: schema, options: { seed: 1 } });
    expect(JSON.parse(String(held.response))).toEqual({ ok: expect.any(Boolean) });
    const { embeddings } = await client.embed({ model: 'tiny', input: ['a model', 'a device'] });
    expect(embeddings.map((vector) => Math.hypot(...vector))).toEqual([expect.closeTo(1, 4), expect.closeTo(1, 4)]);
    expect((await client.list()).models.map(({ name }) => name)).toEqual(['tiny']);
  },
  240_000,
);

withLlama(
  'a client that leaves ends its generation (needs node-llama-cpp)',
  async () => {
    const stream = await client.chat({ model: 'tiny', messages, stream: true, options: { num_predict: 400 } });
    for await (const part of stream) {
      expect(part.done).toBe(false);
      break;
    }
    stream.abort();
    const stats = async (): Promise<unknown> => (await fetch(`${server.url}/v1/queue/stats`)).json();
    for (let attempt = 0; attempt < 100 && JSON.stringify(await stats()).includes('"active":1'); attempt++) {
      await systemClock.sleep(20);
    }
    expect(JSON.stringify(await stats())).toContain('"active":0');
  },
  240_000,
);

test('what cannot be done is said in one text, with its status', async () => {
  await expect(client.chat({ model: 'tony', messages })).rejects.toMatchObject({
    status_code: 404,
    error: expect.stringContaining('did you mean tiny?'),
  });
  await expect(client.chat({ model: 'tiny', messages: [] })).rejects.toMatchObject({ status_code: 400 });
  await expect(
    client.chat({ model: 'tiny', messages, format: { type: 'string', pattern: 'a' } }),
  ).rejects.toMatchObject({ status_code: 400, error: expect.stringContaining('pattern') });
});
