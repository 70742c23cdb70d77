import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { hasLlama, makeTinyGguf } from '@octomil/inference/testing';
import { Client } from '../client.js';

let folder: string;
let modelsFile: string;
let client: Client;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-on-device-'));
  modelsFile = join(folder, 'models.yaml');
  await makeTinyGguf({ kind: 'bigram', path: join(folder, 'tiny.gguf') });
  await makeTinyGguf({ kind: 'random', path: join(folder, 'other.gguf') });
  await writeFile(join(folder, 'broken.gguf'), 'GGUF and nothing more');
  await writeFile(
    modelsFile,
    'models:\n  tiny: ./tiny.gguf\n  "tiny:2.0.0": ./other.gguf\n  broken: ./broken.gguf\n  gone: ./gone.gguf\n',
  );
  // Nobody listens there: whatever answers is on this device.
  const nowhere = {
    apiBase: 'http://127.0.0.1:9/api/v1',
    localUrl: false,
    reportEvents: false,
    maxAttempts: 1,
  } as const;
  client = new Client({ apiKey: 'edg_x', modelsFile, ...nowhere });
});
afterAll(async () => {
  await client.dispose();
  await rm(folder, { recursive: true });
});

const messages = [{ role: 'user', content: 'Federated' }] as const;

(hasLlama() ? describe : describe.skip)('with node-llama-cpp', () => {
  test('a model that the models file names runs here, the same for the same seed', async () => {
    const asked = { messages, maxTokens: 12, seed: 3 };
    const result = await client.predict('tiny', asked);
    expect(result.text).not.toBe('');
    expect(result.metrics).toMatchObject({
      route: { target: 'device', engine: 'llama.cpp', reason: expect.stringContaining('tiny.gguf') },
      provider: 'llama.cpp',
      completionTokens: expect.any(Number),
    });
    const stream = client.predictStream('tiny', asked);
    let text = '';
    for await (const chunk of stream) text += `${chunk}`;
    expect(text).toBe(result.text);
    expect(stream.metrics).toMatchObject({ totalChunks: expect.any(Number), route: { engine: 'llama.cpp' } });
  });

  test('more at once than there are sequences wait for their turn', async () => {
    const many = Array.from({ length: 12 }, (_, seed) => client.predict('tiny', { messages, maxTokens: 5, seed }));
    for (const { text } of await Promise.all(many)) expect(text).not.toBe('');
  });

  test('versions are other files; a loaded one is left when it is disposed of', async () => {
    const model = await client.loadModel('tiny', { version: '2.0.0', engine: 'llama.cpp', cacheSizeMb: 64 });
    const { metrics } = await model.predict(messages, { maxTokens: 4 });
    expect(metrics.route.reason).toContain('other.gguf');
    await model.dispose();
    expect((await client.predict('tiny', { messages, maxTokens: 2 })).metrics.route.engine).toBe('llama.cpp');
  });

  test('a path is a model, and leaving its stream ends the generation', async () => {
    for await (const chunk of client.predictStream(join(folder, 'tiny.gguf'), { messages, maxTokens: 500 })) {
      expect(chunk.index).toBe(0);
      break;
    }
    expect((await client.predict('tiny', { messages, maxTokens: 2 })).text).not.toBe('');
  });

  test('a stream that somebody began to read and forgot keeps no model in memory', async () => {
    const forgotten = client.predictStream('tiny', { messages, maxTokens: 500 })[Symbol.asyncIterator]();
    expect((await forgotten.next()).done).toBe(false);
    await client.dispose();
    await expect(
      (async () => {
        while ((await forgotten.next()).done !== true);
      })(),
    ).rejects.toMatchObject({ name: 'OctomilClientError' });
  });

  test('what cannot be loaded says so, and a question that is too long is no reason to go elsewhere', async () => {
    await expect(client.predict('broken', { messages, route: 'device' })).rejects.toMatchObject({
      name: 'OctomilClientError',
      code: 'model_load_failed',
    });
    const long = 'federated '.repeat(5000);
    await expect(client.predict('tiny', { input: long })).rejects.toMatchObject({ code: 'context_too_large' });
    await client.dispose();
    expect((await client.predict('tiny', { messages, maxTokens: 2 })).text).not.toBe('');
  });
});

test('a file that is gone, a name that is not there, and a models file that is none are named', async () => {
  const where = { messages, route: 'device' } as const;
  await expect(client.predict('gone', where)).rejects.toMatchObject({ reason: expect.stringContaining('gone.gguf') });
  await expect(client.predict('who', where)).rejects.toMatchObject({ reason: expect.stringContaining('"who"') });
  const wrong = join(folder, 'wrong.yaml');
  await writeFile(wrong, 'models: 3');
  const other = new Client({ apiKey: 'edg_x', modelsFile: wrong, localUrl: false });
  await expect(other.predict('m', where)).rejects.toMatchObject({ name: 'OctomilClientError', code: 'config_invalid' });
});
