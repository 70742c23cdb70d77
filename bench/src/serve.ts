import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { type Serve, startServe } from '@octomil/inference/serve';
import { makeTinyGguf } from '@octomil/inference/testing';
import { type BenchmarkResult, percentile } from './result.js';

export interface ServeBenchOptions {
  /** Requests at once, each in a slot of its own. */
  readonly parallel: number;
  /** Of each answer, at most. */
  readonly tokens: number;
  /** Answers to a JSON schema. */
  readonly answers: number;
}

interface Answer {
  readonly tokens: number;
  readonly firstMs: number;
  readonly totalMs: number;
}

const WARM_UPS = 3;
/** Rounds of alternately one request after the other and all at once: the machine's other work falls on both. */
const ROUNDS = 5;
const REFUSALS = 50;
const QUEUE_DEPTH = 8;
const SCHEMA = {
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 20 },
    age: { type: 'integer', minimum: 0, maximum: 130 },
    score: { type: 'number' },
    tags: { type: 'array', items: { enum: ['red', 'green', 'blue'] }, maxItems: 4 },
    home: {
      type: 'object',
      properties: { city: { type: 'string', minLength: 1, maxLength: 12 }, since: { type: 'string', format: 'date' } },
      required: ['city', 'since'],
      additionalProperties: false,
    },
  },
  required: ['name', 'age', 'score', 'tags', 'home'],
  additionalProperties: false,
};

/** A server of models as its clients meet it, over loopback, with random weights in the engine. */
export async function serveBench(options: ServeBenchOptions): Promise<BenchmarkResult> {
  const folder = mkdtempSync(join(tmpdir(), 'octomil-bench-'));
  const path = join(folder, 'random.gguf');
  await makeTinyGguf({ kind: 'random', path });
  const server = await startServe({
    models: { tiny: { path, parallelSequences: options.parallel, contextTokens: 1024, threads: 1 } },
    port: 0,
    maxQueueDepth: QUEUE_DEPTH,
  });
  try {
    return {
      ...(await throughput(server, options)),
      ...(await refusals(server, options)),
      ...(await json(server, options)),
    };
  } finally {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function throughput(server: Serve, { parallel, tokens }: ServeBenchOptions): Promise<BenchmarkResult> {
  for (let run = 0; run < WARM_UPS; run += 1) await stream(server, tokens, run);
  const rate = (answers: readonly Answer[], elapsedMs: number): number =>
    (answers.reduce((sum, answer) => sum + answer.tokens, 0) * 1_000) / elapsedMs;
  const one: number[] = [];
  const many: number[] = [];
  const shares: number[] = [];
  const firsts: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const aloneAtMs = performance.now();
    const alone: Answer[] = [];
    for (let run = 0; run < 4; run += 1) alone.push(await stream(server, tokens, round * 100 + run));
    one.push(rate(alone, performance.now() - aloneAtMs));
    const togetherAtMs = performance.now();
    const together = await Promise.all(
      Array.from({ length: parallel }, (_, run) => stream(server, tokens, round * 100 + run)),
    );
    many.push(rate(together, performance.now() - togetherAtMs));
    // An answer that ends after a few words has hardly a speed.
    const long = together.filter((answer) => answer.tokens > tokens / 2);
    const speeds = long.map((answer) => answer.tokens / answer.totalMs);
    const mean = speeds.reduce((sum, speed) => sum + speed, 0) / speeds.length;
    shares.push(Math.min(...speeds) / mean);
    firsts.push(...together.map(({ firstMs }) => firstMs));
  }
  const [alone, together] = [percentile(one, 0.5), percentile(many, 0.5)];
  return {
    oneTokensPerSecond: alone,
    parallelTokensPerSecond: together,
    parallelToOneRatio: together / alone,
    slowestToMeanSpeedRatio: Math.min(...shares),
    parallelFirstTokenP50Ms: percentile(firsts, 0.5),
    parallelFirstTokenMaxMs: Math.max(...firsts),
  };
}

/** How long the answer takes that there is no room. */
async function refusals(server: Serve, { parallel }: ServeBenchOptions): Promise<BenchmarkResult> {
  const leave = new AbortController();
  const endless = { type: 'array', items: { type: 'integer' }, minItems: 900 };
  const held = Array.from({ length: parallel + QUEUE_DEPTH }, () =>
    post(server, { ...bodyOf(900, 1), ...schemaFormat(endless) }, leave.signal)
      .then((response) => response.text())
      .catch(() => ''),
  );
  while ((await stats(server)).pending < QUEUE_DEPTH);
  const latenciesMs: number[] = [];
  let refused = 0;
  for (let index = 0; index < REFUSALS && (await stats(server)).pending === QUEUE_DEPTH; index += 1) {
    const startedAtMs = performance.now();
    const response = await post(server, bodyOf(5, 1));
    await response.arrayBuffer();
    latenciesMs.push(performance.now() - startedAtMs);
    if (response.status === 429 && response.headers.get('retry-after') !== null) refused += 1;
  }
  leave.abort();
  await Promise.all(held);
  while ((await stats(server)).active > 0);
  return {
    fullQueueAsked: latenciesMs.length,
    fullQueueRefused: refused,
    fullQueueP50Ms: percentile(latenciesMs, 0.5),
    fullQueueMaxMs: Math.max(...latenciesMs),
  };
}

async function json(server: Serve, { answers, parallel }: ServeBenchOptions): Promise<BenchmarkResult> {
  const counts = { jsonStopped: 0, jsonInvalid: 0, jsonCutByLength: 0, jsonFailed: 0 };
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < answers) {
      next += 1;
      const response = await post(server, { ...bodyOf(600, next), ...schemaFormat(SCHEMA), stream: false });
      const answer = (await response.json()) as {
        choices?: { message: { content: string }; finish_reason: string }[];
      };
      const choice = answer.choices?.[0];
      if (choice === undefined) counts.jsonFailed += 1;
      else if (choice.finish_reason === 'length') counts.jsonCutByLength += 1;
      else {
        counts.jsonStopped += 1;
        if (!isValid(choice.message.content)) counts.jsonInvalid += 1;
      }
    }
  };
  const isValid = (text: string): boolean => {
    try {
      return matches(JSON.parse(text));
    } catch {
      return false;
    }
  };
  await Promise.all(Array.from({ length: parallel }, worker));
  return counts;
}

async function stats(server: Serve): Promise<{ readonly pending: number; readonly active: number }> {
  return (await (await fetch(`${server.url}/v1/queue/stats`)).json()) as { pending: number; active: number };
}

/** Said again by hand, apart from the grammar and from the check that the server makes. */
function matches(given: unknown): boolean {
  const { name, age, score, tags, home, ...others } = given as Record<string, unknown>;
  const { city, since, ...more } = home as Record<string, unknown>;
  return (
    typeof name === 'string' &&
    [...name].length <= 20 &&
    Number.isInteger(age) &&
    Number(age) >= 0 &&
    Number(age) <= 130 &&
    Number.isFinite(score) &&
    Array.isArray(tags) &&
    tags.length <= 4 &&
    tags.every((tag) => ['red', 'green', 'blue'].includes(String(tag))) &&
    typeof city === 'string' &&
    [...city].length >= 1 &&
    [...city].length <= 12 &&
    /^\d{4}-\d{2}-\d{2}$/.test(String(since)) &&
    Object.keys(others).length === 0 &&
    Object.keys(more).length === 0
  );
}

async function stream(server: Serve, tokens: number, seed: number): Promise<Answer> {
  const startedAtMs = performance.now();
  const response = await post(server, { ...bodyOf(tokens, seed), stream_options: { include_usage: true } });
  let firstMs = 0;
  let text = '';
  const decoder = new TextDecoder();
  for await (const bytes of response.body ?? []) {
    if (firstMs === 0) firstMs = performance.now() - startedAtMs;
    text += decoder.decode(bytes as Uint8Array, { stream: true });
  }
  const counted = /"completion_tokens":(\d+)/.exec(text)?.[1];
  if (counted === undefined) throw new TypeError(`an answer has no usage: ${text.slice(0, 300)}`);
  return { tokens: Number(counted), firstMs, totalMs: performance.now() - startedAtMs };
}

function post(server: Serve, body: object, signal?: AbortSignal): Promise<Response> {
  return fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

function bodyOf(tokens: number, seed: number): object {
  const messages = [{ role: 'user', content: 'What do the sites send to the coordinator?' }];
  return { model: 'tiny', messages, max_tokens: tokens, seed, temperature: 1, top_p: 1, stream: true };
}

function schemaFormat(schema: object): object {
  return { response_format: { type: 'json_schema', json_schema: { name: 'answer', schema } } };
}
