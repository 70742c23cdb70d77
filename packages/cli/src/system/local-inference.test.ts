// Models of this machine from the terminal: asked, embedded, talked with, served, and recordings written down.

import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type Coordinator, startCoordinator } from '@octomil/coordinator';
import { hasLlama, makeTinyGguf } from '@octomil/inference/testing';
import { ModelRegistry } from '@octomil/sdk';
import { silentLogger } from '@octomil/shared/runtime';
import { OpenAI } from 'openai';
import { octomil as inProcess, startOctomil } from './octomil-command.js';
import { inTerminal, type TerminalResult } from './terminal.js';

const withLlama = hasLlama() ? test : test.skip;
let folder: string;
const closing: Server[] = [];
const at = (name: string): string => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-local-inference-'));
  await makeTinyGguf({ kind: 'bigram', path: at('tiny.gguf') });
  await makeTinyGguf({ kind: 'random', path: at('random.gguf') });
  await makeTinyGguf({ kind: 'random', path: at('cut.gguf') });
  await truncate(at('cut.gguf'), 200_000);
  await writeFile(at('models.yaml'), 'models:\n  small: ./tiny.gguf\n  large: ./random.gguf\n');
  await mkdir(at('home'));
});
afterAll(async () => {
  for (const server of closing) {
    server.close();
    server.closeAllConnections();
  }
  await rm(folder, { recursive: true });
});

/** Without anything that the person who runs the test has set. */
function bare(): Record<string, string> {
  return {
    HOME: at('home'),
    OCTOMIL_CREDENTIALS: at('home/none'),
    OCTOMIL_API_BASE: '',
    OCTOMIL_API_KEY: '',
    OCTOMIL_SERVER_KEY: '',
    OCTOMIL_SERVE_KEY: '',
    OCTOMIL_MODELS_FILE: '',
    OCTOMIL_CACHE_DIR: '',
    OCTOMIL_TRANSCRIBE_COMMAND: '',
    OPENAI_API_ENDPOINT: '',
    OPENAI_API_KEY: '',
  };
}

function octomil(args: readonly string[], environment: Record<string, string> = {}): Promise<TerminalResult> {
  return inTerminal(args, { ...bare(), ...environment });
}

async function piped(text: string, ...args: string[]): Promise<Awaited<ReturnType<typeof inProcess>>> {
  await writeFile(at('piped.txt'), text);
  return inProcess(args, { environment: bare(), shellPrefix: `exec < '${at('piped.txt')}'` });
}

withLlama(
  'a prompt is answered: given, piped, streamed, whole, as JSON (needs node-llama-cpp)',
  async () => {
    const options = ['-m', at('tiny.gguf'), '--seed', '4', '--max-output-tokens', '20'];
    const answered = await octomil(['run', 'Tell me about the model', ...options]);
    expect(answered).toMatchObject({ exitCode: 0, out: expect.stringMatching(/^[A-Z][a-z ]+.*\n$/s) });
    expect((await octomil(['run', 'Tell me about the model', ...options, '--no-stream'])).out).toBe(answered.out);
    const { exitCode, out, err } = await piped('Tell me about the model', 'run', '-', ...options, '--json');
    expect([exitCode, err]).toEqual([0, '']);
    expect(JSON.parse(out)).toMatchObject({
      model: 'tiny',
      text: answered.out.trimEnd(),
      finishReason: 'stop',
      usage: { promptTokens: expect.any(Number), completionTokens: expect.any(Number) },
      metrics: { ttfcMs: expect.any(Number) },
    });
    const cut = await octomil(['run', 'x', '-m', at('random.gguf'), '--max-output-tokens', '3']);
    expect(cut).toMatchObject({ exitCode: 0, err: expect.stringMatching(/cut off after 3 tokens/) });
  },
  240_000,
);

withLlama(
  'an answer holds to a schema, or says that it could not end (needs node-llama-cpp)',
  async () => {
    const schema = {
      type: 'object',
      properties: { age: { type: 'integer', minimum: 1, maximum: 99 }, name: { type: 'string', maxLength: 8 } },
      required: ['age', 'name'],
      additionalProperties: false,
    };
    await writeFile(at('schema.json'), JSON.stringify(schema));
    const ask = (...more: string[]): Promise<TerminalResult> =>
      octomil(['run', 'Who?', '-m', at('random.gguf'), '--schema', at('schema.json'), ...more]);
    for (const seed of ['1', '2', '3']) {
      const { exitCode, out } = await ask('--seed', seed);
      const { age, name } = JSON.parse(out) as { age: number; name: string };
      expect([exitCode, Number.isInteger(age) && age > 0 && age < 100, [...name].length <= 8]).toEqual([0, true, true]);
    }
    expect((await ask('--max-output-tokens', '3')).exitCode).toBe(1);
    await writeFile(at('odd.json'), '{"type":"string","pattern":"a+"}');
    expect((await octomil(['run', 'x', '-m', at('random.gguf'), '--schema', at('odd.json')])).err).toMatch(
      /\[invalid_input\].*pattern/,
    );
    await writeFile(at('list.json'), '[]');
    expect((await octomil(['run', 'x', '--schema', at('list.json')])).err).toMatch(/must hold a JSON object/);
  },
  240_000,
);

withLlama(
  'a question goes to the model that suits it, and a sum to none (needs node-llama-cpp)',
  async () => {
    const environment = { OCTOMIL_MODELS_FILE: at('models.yaml') };
    const ask = (question: string, ...more: string[]): Promise<TerminalResult> =>
      octomil(['run', question, '--max-output-tokens', '3', '--explain', ...more], environment);
    expect(await ask('What is 12 * 12?')).toMatchObject({ out: '144\n', err: expect.stringMatching(/^no model/) });
    expect((await ask('hi there')).err).toMatch(/^small: complexity 0\.\d\d, tier fast/);
    const hard = await ask('Prove step by step that the square root of two is irrational, then refactor it', '--json');
    expect(hard.err).toMatch(/^large: .*\n {2}\w+ 0\.\d\d/);
    expect(JSON.parse(hard.out)).toMatchObject({
      model: 'large',
      routing: { tier: 'quality', fallbackChain: ['small'] },
    });
    expect((await ask('hi there', '-m', 'large')).err).toMatch(/^large: it was named/);
    // The next one takes over where one cannot be loaded.
    await writeFile(at('broken.yaml'), 'models:\n  small: ./cut.gguf\n  large: ./random.gguf\n');
    const fell = await octomil(['run', 'hi there', '--max-output-tokens', '3', '--json'], {
      OCTOMIL_MODELS_FILE: at('broken.yaml'),
    });
    expect(fell.err).toMatch(/^small cannot be used: .*cut short/);
    expect(JSON.parse(fell.out)).toMatchObject({ model: 'large' });
  },
  240_000,
);

withLlama(
  'texts become vectors of length 1, given or piped (needs node-llama-cpp)',
  async () => {
    const { out } = await octomil(['embed', 'one model', 'two', '-m', at('tiny.gguf'), '--json']);
    const { model, embeddings } = JSON.parse(out) as { model: string; embeddings: number[][] };
    expect([model, embeddings.length]).toEqual(['tiny', 2]);
    for (const vector of embeddings) expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
    const lines = await piped('one model\n\ntwo\n', 'embed', '-m', at('tiny.gguf'), '--jsonl');
    expect(
      lines.out
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as unknown),
    ).toEqual([
      { index: 0, input: 'one model', embedding: embeddings[0] },
      { index: 1, input: 'two', embedding: embeddings[1] },
    ]);
    expect((await octomil(['embed', 'a', '', '-m', at('tiny.gguf')])).err).toMatch(/text 2 is empty/);
    expect((await octomil(['embed', 'a', '--json', '--jsonl'])).exitCode).toBe(2);
  },
  240_000,
);

withLlama(
  'Ctrl-C ends an answer, and so does a reader who has enough (needs node-llama-cpp)',
  async () => {
    // Greedy, it says the same again and again until the context is full.
    const args = ['run', 'Tell me', '-m', at('tiny.gguf'), '-t', '0', '--context', '2048'];
    const interrupted = startOctomil(args, { environment: bare() });
    await interrupted.until(/\w+ \w+ \w+/);
    interrupted.child.kill('SIGINT');
    expect(await interrupted.finished).toMatchObject({ exitCode: 130, err: expect.stringMatching(/\[cancelled\]/) });
    const left = startOctomil(args, { environment: bare() });
    await left.until(/\w+ \w+ \w+/);
    left.child.stdout?.destroy();
    expect(await left.finished).toMatchObject({ exitCode: 0, err: '' });
  },
  240_000,
);

test('what an agent has activated is served without an engine for text', async () => {
  await mkdir(at('state'), { recursive: true });
  const serving = startOctomil(['serve', '--state-dir', at('state'), '--port', '0', '--json'], { environment: bare() });
  const { url, models } = JSON.parse(await serving.until(/\{.*\}/)) as { url: string; models: string[] };
  expect(models).toEqual([]);
  const predicted = await fetch(`${url}/v1/predict`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"model":"heart","inputs":[{"age":1}]}',
  });
  expect([predicted.status, await predicted.text()]).toEqual([
    404,
    expect.stringMatching(/nothing is deployed here yet/),
  ]);
  serving.child.kill('SIGINT');
  expect(await serving.finished).toMatchObject({ exitCode: 0, err: '' });
}, 240_000);

withLlama(
  'a conversation that is piped in (needs node-llama-cpp)',
  async () => {
    const script = 'Tell me about the model\nAnd the data?\n/reset\n/help\nTell me about the model\n/exit\nunheard\n';
    const { exitCode, out, err } = await piped(
      script,
      'chat',
      at('tiny.gguf'),
      '--max-tokens',
      '20',
      '--json',
      '-s',
      'Be brief.',
    );
    expect([exitCode, err]).toEqual([0, 'Forgotten.\nThere is no /help; there are /exit and /reset.\n']);
    const answers = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { text: string; usage: { promptTokens: number } });
    expect(answers).toHaveLength(3);
    const [first, second, third] = answers.map(({ usage }) => usage.promptTokens);
    // The second question comes with the first one and its answer, the third with nothing.
    expect([third, Number(second) > Number(first)]).toEqual([first, true]);
    const failed = await piped(`${'word '.repeat(3000)}\nnext\n`, 'chat', at('tiny.gguf'));
    expect(failed).toMatchObject({ exitCode: 1, out: '', err: expect.stringMatching(/\[context_too_large\]/) });
  },
  240_000,
);

withLlama(
  "a server for OpenAI's clients, until SIGTERM (needs node-llama-cpp)",
  async () => {
    const serving = startOctomil(
      ['serve', '--models', at('models.yaml'), '--port', '0', '--parallel', '2', '--auto-route'],
      { environment: { ...bare(), OCTOMIL_SERVE_KEY: 'sk-here' } },
    );
    const said = await serving.until(/Listening on +\S+\nModels +small, large\nauto .*/);
    const baseURL = /http\S+/.exec(said)?.[0] ?? '';
    const client = new OpenAI({ baseURL, apiKey: 'sk-here', maxRetries: 0 });
    const messages = [{ role: 'user' as const, content: 'hi there' }];
    const { data, response } = await client.chat.completions
      .create({ model: 'auto', messages, max_tokens: 10, n: 2 })
      .withResponse();
    expect(data.choices).toHaveLength(2);
    expect(response.headers.get('x-octomil-routed-model')).toBe('small');
    await expect(
      new OpenAI({ baseURL, apiKey: 'other', maxRetries: 0 }).chat.completions.create({ model: 'small', messages }),
    ).rejects.toThrow(OpenAI.AuthenticationError);
    await expect(client.chat.completions.create({ model: 'small', messages, n: 3 })).rejects.toThrow(/at most 2/);
    expect(await serving.stop()).toMatchObject({ exitCode: 0, err: '' });
  },
  240_000,
);

withLlama(
  'what cannot be served is said at the start (needs node-llama-cpp)',
  async () => {
    const fails = async (args: readonly string[], problem: RegExp, environment = {}): Promise<void> => {
      // A process of its own: here the test's runner is the parent, whose end a server watches for.
      const given = { environment: { ...bare(), ...environment } };
      const { exitCode, err } = await inProcess(['serve', '--port', '0', ...args], given);
      expect([err, exitCode]).toEqual([expect.stringMatching(problem), 1]);
    };
    await fails([], /\[config_invalid\].*nothing to serve/);
    await fails([at('cut.gguf')], /\[model_load_failed\].*cut short/);
    await fails([at('none.gguf')], /\[not_found\].*there is no file/);
    await fails(['phi'], /\[model_not_found\].*no models file.*octomil login/);
    await fails(['phi'], /\[model_not_found\].*models\.yaml has small, large/, {
      OCTOMIL_MODELS_FILE: at('models.yaml'),
    });
    await fails([at('tiny.gguf'), '--host', '0.0.0.0'], /\[config_invalid\].*API key/);
    await fails([at('tiny.gguf'), '--auto-route'], /\[config_invalid\].*two or more/);
    await fails(['--models', at('models.yaml'), '--draft', at('random.gguf')], /\[invalid_input\].*one model/);
    await fails(['--state-dir', at('nowhere')], /\[config_invalid\].*is no folder/);
    for (const wrong of [
      ['--port', '70000'],
      ['--max-queue', '-1'],
      ['--threads', 'all'],
      ['a', 'b'],
    ]) {
      expect((await octomil(['serve', ...wrong])).exitCode).toBe(2);
    }
  },
  300_000,
);

test('what a program or a server hears is written down', async () => {
  await writeFile(at('talk.wav'), 'RIFF');
  const without = await octomil(['transcribe', at('talk.wav')]);
  expect(without.err).toMatch(/\[config_invalid\].*OPENAI_API_ENDPOINT.*OCTOMIL_TRANSCRIBE_COMMAND/);
  expect((await octomil(['transcribe', at('none.wav')])).err).toMatch(/\[not_found\]/);

  const program = (...words: string[]) => ({ OCTOMIL_TRANSCRIBE_COMMAND: JSON.stringify(words) });
  const script = 'console.log("  " + require("fs").readFileSync(process.argv[1]) + " in " + process.argv[2] + "\\n")';
  const node = process.execPath;
  const heard = await octomil(['transcribe', at('talk.wav'), '--language', 'de', '--json'], {
    ...program(node, '-e', script, '{input}', '{language}'),
    // The program goes first.
    OPENAI_API_ENDPOINT: 'http://127.0.0.1:9',
  });
  expect(JSON.parse(heard.out)).toEqual({ text: 'RIFF in de', provider: 'command' });
  const broken = await octomil(['transcribe', at('talk.wav')], program(node, '-e', 'throw "no ears"', '{input}'));
  expect(broken.err).toMatch(/\[inference_failed\].*exit code 1[\s\S]*no ears/);
  const slow = ['transcribe', at('talk.wav'), '--timeout', '0.2'];
  const never = program(node, '-e', 'setInterval(() => 0, 1e3)', '{input}');
  expect((await octomil(slow, never)).err).toMatch(/\[request_timeout\].*0\.2 s/);
  for (const wrong of ['whisper {input}', '["whisper"]', '["{input}"]', '{}', '[1,"{input}"]']) {
    const { err } = await octomil(['transcribe', at('talk.wav')], { OCTOMIL_TRANSCRIBE_COMMAND: wrong });
    expect(err).toMatch(/\[config_invalid\].*JSON array/);
  }
  expect((await octomil(['transcribe', at('talk.wav')], program('no-such-program', '{input}'))).err).toMatch(
    /\[config_invalid\].*no-such-program.*ENOENT/,
  );
}, 240_000);

test('a recording goes to an OpenAI-compatible server, and what it refuses is said', async () => {
  await writeFile(at('talk.wav'), 'RIFF');
  const seen: { url: string | undefined; key: string | undefined; body: string }[] = [];
  let status = 200;
  let answer = '{"text":" hello \\n"}';
  const server = createServer((request: IncomingMessage, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => {
      body += text;
    });
    request.on('end', () => {
      seen.push({ url: request.url, key: request.headers.authorization, body });
      response.writeHead(status, { 'content-type': 'application/json', location: 'http://127.0.0.1:9/' }).end(answer);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const transcribe = (...more: string[]): Promise<TerminalResult> =>
    octomil(['transcribe', at('talk.wav'), ...more], { OPENAI_API_ENDPOINT: endpoint, OPENAI_API_KEY: 'sk-1' });
  closing.push(server);
  expect(await transcribe('-m', 'small-ears', '--language', 'en')).toEqual({ exitCode: 0, out: 'hello\n', err: '' });
  expect(seen[0]).toMatchObject({ url: '/v1/audio/transcriptions', key: 'Bearer sk-1' });
  for (const part of ['filename="talk.wav"', 'RIFF', 'small-ears', 'name="language"'])
    expect(seen[0]?.body).toContain(part);
  for (const [refused, body, problem] of [
    [401, '{"error":{"message":"wrong key"}}', /\[authentication_failed\].*401: wrong key/],
    [404, '{"error":{"message":"no such model"}}', /\[model_not_found\].*no such model/],
    [500, 'broken', /\[inference_failed\].*500: broken/],
    [200, '{}', /\[inference_failed\].*without a text/],
    // The key must not follow.
    [302, '', /\[network_unavailable\]/],
  ] as const) {
    status = refused;
    answer = body;
    expect((await transcribe()).err).toMatch(problem);
  }
  server.close();
  server.closeAllConnections();
  expect((await transcribe()).err).toMatch(/\[network_unavailable\].*cannot be reached/);
}, 240_000);

withLlama(
  'a model of the registry is pulled once, checked, and there without the coordinator (needs node-llama-cpp)',
  async () => {
    const coordinator: Coordinator = await startCoordinator({
      database: 'memory',
      logger: silentLogger,
      environment: { OCTOMIL_REST_PORT: '0', OCTOMIL_GRPC_PORT: '0', OCTOMIL_DATA_DIR: at('coordinator') },
    });
    const apiBase = `${coordinator.restUrl}/api/v1`;
    const apiKey = coordinator.bootstrapApiKey ?? '';
    const environment = { OCTOMIL_API_BASE: apiBase, OCTOMIL_API_KEY: apiKey, OCTOMIL_CACHE_DIR: at('cache') };
    const ask = (model: string): Promise<TerminalResult> =>
      octomil(['run', 'hi', '-m', model, '--max-output-tokens', '3', '--json'], environment);
    try {
      const registry = new ModelRegistry({ apiBase, apiKey });
      for (const [name, file] of [
        ['tiny', 'tiny.gguf'],
        ['notes', 'models.txt'],
      ] as const) {
        if (file === 'models.txt') await writeFile(at(file), 'no model');
        const { id: modelId } = await registry.ensureModel({ name });
        await registry.uploadVersionFromPath({ modelId, filePath: at(file), version: '1.0.0' });
        await registry.publishVersion({ modelId, version: '1.0.0' });
      }
      const first = await ask('tiny');
      expect([first.exitCode, first.err, JSON.parse(first.out)]).toMatchObject([
        0,
        expect.any(String),
        { model: 'tiny' },
      ]);
      expect((await ask('tiny:1.0.0')).exitCode).toBe(0);
      const kept = (await readdir(at('cache/models'))).filter((name) => name.endsWith('.gguf'));
      expect(kept).toHaveLength(1);
      expect(await readFile(at(`cache/models/${kept[0]}`))).toEqual(await readFile(at('tiny.gguf')));
      expect((await ask('notes')).err).toMatch(/\[format_not_ready\].*no GGUF file/);
      expect((await ask('tiny:2.0.0')).err).toMatch(/\[version_not_found\]/);
      expect((await ask('tinny')).err).toMatch(/\[model_not_found\].*the registry does not have it/);

      // What the organization has decided holds for those who are logged in.
      await fetch(`${apiBase}/route/policy`, {
        method: 'PUT',
        headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
        body: '{"fast_threshold":0,"quality_threshold":0}',
      });
      const serving = startOctomil(['serve', '--models', at('models.yaml'), '--port', '0', '--auto-route'], {
        environment: { ...bare(), ...environment },
      });
      const baseURL = /http\S+/.exec(await serving.until(/Listening on +\S+/))?.[0] ?? '';
      const { response } = await new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 }).chat.completions
        .create({ model: 'auto', messages: [{ role: 'user', content: 'hi there' }], max_tokens: 3 })
        .withResponse();
      expect(response.headers.get('x-octomil-routed-model')).toBe('large');
      await serving.stop();
    } finally {
      await coordinator.stop();
    }
    const offline = await ask('tiny');
    expect([offline.exitCode, offline.err]).toEqual([
      0,
      expect.stringMatching(/cannot be reached; using tiny 1\.0\.0/),
    ]);
    expect((await ask('other')).err).toMatch(/\[model_not_found\].*could not be asked/);
  },
  300_000,
);
