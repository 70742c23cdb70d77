import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { OctomilClientError } from '../client-error.js';
import { FakeCoordinator } from '../testing/fake-coordinator.js';
import { ChatMessage } from './chat-message.js';
import { OctoAI } from './octo-ai.js';

let server: FakeCoordinator;
let client: OctoAI;
beforeEach(async () => {
  server = new FakeCoordinator();
  await server.start();
  client = new OctoAI({ apiKey: 'octo-token', apiBase: server.apiBase, timing: server.timing });
});
afterEach(() => server.stop());

const messages = [
  new ChatMessage({ role: 'system', content: 'Below is an instruction that describes a task.' }),
  new ChatMessage({ role: 'user', content: 'Write a blog about Seattle' }),
];
const request = { model: 'meta-llama-3-8b-instruct', messages, maxTokens: 150 };
const COMPLETION = {
  id: 'cmpl-8ea213aece0747aca6d0608b02b57196',
  choices: [
    {
      index: 0,
      message: { role: 'assistant', content: 'Founded in 1921', function_call: null },
      delta: null,
      finish_reason: 'length',
    },
  ],
  created: 5399,
  model: 'meta-llama-3-8b-instruct',
  object: 'chat.completion',
  system_fingerprint: null,
  usage: { completion_tokens: 150, prompt_tokens: 571, total_tokens: 721 },
};
const chunk = (delta: object, finish: string | null = null, index = 0): string =>
  `data: ${JSON.stringify({ id: 'c1', created: 7, model: 'm', object: 'chat.completion.chunk', system_fingerprint: 'fp', choices: [{ index, delta, finish_reason: finish }] })}\n\n`;

async function streamed(more: object = {}): Promise<string> {
  let text = '';
  for await (const completion of client.textGen.createChatCompletionStream({ ...request, ...more })) {
    text += completion.choices[0]?.delta.content ?? '';
  }
  return text;
}

test('a completion has the documented fields, and the documented JSON', async () => {
  server.json(200, COMPLETION);
  const completion = await client.textGen.createChatCompletion(request);
  expect(JSON.stringify(completion, null, 2)).toBe(JSON.stringify(COMPLETION, null, 2));
  expect(completion.choices[0]?.message.content).toBe('Founded in 1921');
  expect(completion.choices[0]?.finishReason).toBe('length');
  expect(completion.usage).toEqual({ completionTokens: 150, promptTokens: 571, totalTokens: 721 });
  expect(completion.systemFingerprint).toBeNull();
  expect(server.requests[0]).toMatchObject({
    path: '/api/v1/chat/completions',
    headers: { authorization: 'Bearer octo-token' },
  });
  expect(JSON.parse(server.requests[0]?.body ?? '')).toEqual({
    model: 'meta-llama-3-8b-instruct',
    messages: [
      { role: 'system', content: 'Below is an instruction that describes a task.' },
      { role: 'user', content: 'Write a blog about Seattle' },
    ],
    max_tokens: 150,
    stream: false,
  });
});

test('additional parameters go by their names on the wire, maps as they are', async () => {
  server.json(200, COMPLETION);
  await client.textGen.createChatCompletion({
    ...request,
    frequencyPenalty: 0.5,
    presencePenalty: -0.5,
    repetitionPenalty: 1.1,
    logitBias: { someToken: -1 },
    n: 2,
    seed: 7,
    stop: ['END'],
    temperature: 0,
    topP: 0.9,
    user: 'u',
    responseFormat: { type: 'json_schema', json_schema: { name: 'A', schema: { type: 'object' } } },
  });
  expect(JSON.parse(server.requests[0]?.body ?? '')).toMatchObject({
    frequency_penalty: 0.5,
    presence_penalty: -0.5,
    repetition_penalty: 1.1,
    logit_bias: { someToken: -1 },
    n: 2,
    seed: 7,
    stop: ['END'],
    temperature: 0,
    top_p: 0.9,
    user: 'u',
    response_format: { type: 'json_schema', json_schema: { name: 'A', schema: { type: 'object' } } },
  });
});

test('a stream, with its usage', async () => {
  const usage = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 } })}\n\n`;
  const events = `${chunk({ role: 'assistant', content: '' })}${chunk({ content: 'Sea' })}${chunk({ content: 'ttle' })}${chunk({}, 'stop')}${usage}data: [DONE]\n\n`;
  server.events(events);
  const all: string[] = [];
  let last: unknown;
  const stream = client.textGen.createChatCompletionStream({ ...request, streamOptions: { includeUsage: true } });
  for await (const piece of stream) {
    all.push(`${piece}`);
    last = piece.usage ?? last;
  }
  expect(all).toEqual(['', 'Sea', 'ttle', '', '']);
  expect(last).toEqual({ promptTokens: 2, completionTokens: 3, totalTokens: 5 });
  expect(JSON.parse(server.requests[0]?.body ?? '')).toMatchObject({
    stream: true,
    stream_options: { include_usage: true },
  });
});

test('what breaks off is never taken for whole: cut, ended early, one of two choices ended, an error line', async () => {
  const failure = { code: 'stream_interrupted', name: 'OctomilClientError' };
  server.events(chunk({ content: 'Sea' }), true);
  await expect(streamed()).rejects.toMatchObject(failure);
  server.events(chunk({ content: 'Sea' }));
  await expect(streamed()).rejects.toMatchObject(failure);
  server.events('');
  await expect(streamed()).rejects.toMatchObject(failure);
  server.events(chunk({ content: 'a' }, 'stop', 0) + chunk({ content: 'b' }, null, 1));
  await expect(streamed({ n: 2 })).rejects.toMatchObject(failure);
  server.events(
    `${chunk({ content: 'a' })}data: {"error":{"message":"too long","code":"context_length_exceeded"}}\n\n`,
  );
  await expect(streamed()).rejects.toMatchObject({ code: 'context_too_large', reason: 'too long' });
  // Some servers say nothing after the last chunk.
  server.events(chunk({ content: 'a' }, 'stop'));
  expect(await streamed()).toBe('a');
});

test('errors have our codes, in whichever shape they come', async () => {
  const asked = (): Promise<unknown> => client.textGen.createChatCompletion(request);
  server.json(400, { error: { message: 'too long', type: 'x', param: null, code: 'context_length_exceeded' } });
  await expect(asked()).rejects.toMatchObject({ code: 'context_too_large', status: 400, reason: 'too long' });
  server.json(401, { error: { message: 'Incorrect API key', code: null } });
  await expect(asked()).rejects.toMatchObject({ code: 'authentication_failed', reason: 'Incorrect API key' });
  server.json(404, { error: { message: 'no such model', code: 'model_not_found' } });
  await expect(asked()).rejects.toMatchObject({ code: 'model_not_found' });
  server.json(400, { error: { message: 'bad', code: 'bad_request' }, code: 'bad_request', message: 'bad' });
  await expect(asked()).rejects.toMatchObject({ code: 'invalid_input' });
  server.json(200, { hello: 'world' });
  await expect(asked()).rejects.toMatchObject({ code: 'inference_failed' });
  server.next((_request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>'));
  await expect(asked()).rejects.toBeInstanceOf(OctomilClientError);
});

test('one who waits too long, or no longer, is told so', async () => {
  const silent = (): void => {
    server.next(() => undefined);
  };
  silent();
  await expect(client.textGen.createChatCompletion({ ...request, timeoutMs: 30 })).rejects.toMatchObject({
    code: 'request_timeout',
  });
  silent();
  await expect(streamed({ timeoutMs: 30 })).rejects.toMatchObject({ code: 'request_timeout' });
  silent();
  const cancel = new AbortController();
  const asked = client.textGen.createChatCompletion({ ...request, signal: cancel.signal });
  setTimeout(() => cancel.abort(), 10);
  await expect(asked).rejects.toMatchObject({ code: 'cancelled' });
});

test('no token is sent where there is none, and one that goes over an open line is spoken of', async () => {
  const keyless = new OctoAI({ apiBase: server.apiBase });
  server.json(200, COMPLETION);
  await keyless.textGen.createChatCompletion(request);
  expect(server.requests[0]?.headers['authorization']).toBeUndefined();
  const warnings: string[] = [];
  new OctoAI({ apiKey: 'x', apiBase: 'http://octo.example/v1', onWarning: (text) => warnings.push(text) });
  new OctoAI({ apiBase: 'http://octo.example/v1', onWarning: (text) => warnings.push(text) });
  expect(warnings).toHaveLength(1);
  expect(() => new OctoAI({ apiBase: 'octo' })).toThrow(OctomilClientError);
  await expect(client.textGen.createChatCompletion({ ...request, messages: [] })).rejects.toMatchObject({
    details: { field: 'messages' },
  });
  const withNothing = { ...request, messages: [null] as unknown as ChatMessage[] };
  await expect(client.textGen.createChatCompletion(withNothing)).rejects.toMatchObject({
    code: 'invalid_input',
    details: { field: 'messages[0]' },
  });
  expect(() => client.textGen.createChatCompletionStream(withNothing)).toThrow(OctomilClientError);
  await expect(client.textGen.createChatCompletion({ ...request, temperature: Number.NaN })).rejects.toMatchObject({
    details: { field: 'temperature' },
  });
});
