import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type CoordinatorProcess, freePort, startCoordinatorProcess } from './coordinator-process.js';
import { processMemoryMiB } from './process-memory.js';
import { processTimeMs } from './process-time.js';
import { type BenchmarkResult, percentile } from './result.js';

export interface GatewayBenchOptions {
  /** Interleaved single requests for the time to the first token. */
  readonly requests: number;
  readonly streams: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
}

interface Target {
  readonly name: 'direct' | 'bare' | 'gateway';
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  /** What a whole answer ends with. */
  readonly end: string;
  body(model: string, prompt: string, tokens: number): string;
}

const DISCONNECTS = 50;
const agent = new Agent({ keepAlive: true });

/**
 * The gateway in a real coordinator, against the same model server without it and against the least proxy that undici
 * makes, over loopback. The coordinator authenticates each request and keeps the events of each generation.
 */
export async function gatewayBench(options: GatewayBenchOptions): Promise<BenchmarkResult> {
  const folder = mkdtempSync(join(tmpdir(), 'octomil-bench-'));
  const peers: ChildProcess[] = [];
  let coordinator: CoordinatorProcess | undefined;
  try {
    const upstream = await startPeer(peers, 'upstream');
    const bare = await startPeer(peers, 'proxy', upstream);
    process.env['OLLAMA_BASE_URL'] = upstream;
    // All streams are of one organization.
    process.env['LLM_MAX_SHARE'] = '1';
    coordinator = await startCoordinatorProcess({
      dataDir: folder,
      restPort: await freePort(),
      grpcPort: await freePort(),
      logFile: join(folder, 'log'),
    });
    const direct = plain('direct', `${upstream}/api/chat`);
    const proxied = plain('bare', `${bare}/api/chat`);
    const gateway = throughGateway(coordinator);
    const targets = [direct, proxied, gateway];
    for (const target of targets) await timeToFirstToken(target, Math.min(100, options.requests));
    const ttft = await interleaved(targets, options.requests);
    const added = (target: Target): number => (ttft.get(target.name) ?? 0) - (ttft.get('direct') ?? 0);

    const barePid = peers[1]?.pid ?? 0;
    // A short load first: both are measured warm.
    for (const target of [proxied, gateway]) await load(target, { ...options, tokens: 20 });
    const first = await cpuPerToken(proxied, barePid, options);
    const second = await cpuPerToken(gateway, coordinator.pid, options);
    const third = await cpuPerToken(gateway, coordinator.pid, options);
    const fourth = await cpuPerToken(proxied, barePid, options);
    const bareMicros = (first.micros + fourth.micros) / 2;
    const gatewayMicros = (second.micros + third.micros) / 2;

    const stalled = await stalledReader(gateway, coordinator.pid);
    const lags = await disconnects(gateway, upstream);
    return {
      directTtftMs: ttft.get('direct') ?? null,
      bareAddedTtftP50Ms: added(proxied),
      gatewayAddedTtftP50Ms: added(gateway),
      bareCpuMicrosPerToken: bareMicros,
      gatewayCpuMicrosPerToken: gatewayMicros,
      cpuRatio: gatewayMicros / bareMicros,
      streamErrors: second.errors + third.errors,
      stalledReaderMiB: stalled,
      disconnectsSeen: lags.length,
      disconnectMaxMs: Math.max(...lags),
    };
  } finally {
    agent.destroy();
    await coordinator?.stop();
    for (const peer of peers) peer.kill();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function startPeer(peers: ChildProcess[], ...args: string[]): Promise<string> {
  const child = fork(fileURLToPath(new URL('./gateway-peer.js', import.meta.url)), args);
  peers.push(child);
  const [port] = (await once(child, 'message')) as [number];
  return `http://127.0.0.1:${port}`;
}

function plain(name: Target['name'], url: string): Target {
  return {
    name,
    url,
    headers: {},
    end: '"done":true',
    body: (model, content, tokens) =>
      JSON.stringify({
        model,
        messages: [{ role: 'user', content }],
        stream: true,
        options: { num_predict: tokens },
      }),
  };
}

function throughGateway(coordinator: CoordinatorProcess): Target {
  return {
    name: 'gateway',
    url: `${coordinator.restUrl}/api/v1/inference/stream`,
    headers: { authorization: `Bearer ${coordinator.apiKey()}` },
    end: '"done":true',
    body: (model_id, content, max_tokens) =>
      JSON.stringify({ model_id, messages: [{ role: 'user', content }], parameters: { max_tokens } }),
  };
}

interface Streamed {
  readonly firstMs: number;
  readonly ok: boolean;
}

function stream(target: Target, model: string, prompt: string, tokens: number): Promise<Streamed> {
  const startedAt = performance.now();
  return new Promise((resolve) => {
    let firstMs = Number.NaN;
    let tail = '';
    const failed = (): void => resolve({ firstMs, ok: false });
    const sent = request(
      target.url,
      { method: 'POST', agent, headers: { 'content-type': 'application/json', ...target.headers } },
      (response) => {
        response.on('data', (part: Buffer) => {
          if (Number.isNaN(firstMs)) firstMs = performance.now() - startedAt;
          tail = part.subarray(-400).toString('latin1');
        });
        response.on('end', () => resolve({ firstMs, ok: tail.includes(target.end) }));
        response.on('error', failed);
      },
    );
    sent.on('error', failed);
    sent.end(target.body(model, prompt, tokens));
  });
}

async function timeToFirstToken(target: Target, count: number): Promise<number[]> {
  const times: number[] = [];
  for (let index = 0; index < count; index += 1) times.push((await stream(target, 'instant', 'Hi', 1)).firstMs);
  return times;
}

/** One after the other and in turns, so that what else the machine does meets all of them alike. */
async function interleaved(targets: readonly Target[], count: number): Promise<Map<string, number>> {
  const times = new Map(targets.map(({ name }) => [name, [] as number[]]));
  for (let index = 0; index < count; index += 1) {
    for (const target of targets) times.get(target.name)?.push(...(await timeToFirstToken(target, 1)));
  }
  return new Map([...times].map(([name, all]) => [name, percentile(all, 0.5)]));
}

async function load(target: Target, { streams, tokens, tokensPerSecond }: GatewayBenchOptions): Promise<number> {
  const model = `paced-${tokensPerSecond}`;
  const done = await Promise.all(
    Array.from({ length: streams }, async (_, index) => {
      // Spread over one pause between tokens, as real clients are.
      await sleep((index / streams) * (1000 / tokensPerSecond) * 10);
      return stream(target, model, `load ${index}`, tokens);
    }),
  );
  return done.filter(({ ok }) => !ok).length;
}

async function cpuPerToken(
  target: Target,
  pid: number,
  options: GatewayBenchOptions,
): Promise<{ micros: number; errors: number }> {
  const before = processTimeMs(pid);
  const errors = await load(target, options);
  const micros = ((processTimeMs(pid) - before) * 1000) / (options.streams * options.tokens);
  return { micros, errors };
}

/** Memory that one reader costs who asks for an endless answer and reads nothing of it. */
async function stalledReader(target: Target, pid: number): Promise<number> {
  const { hostname, port, pathname } = new URL(target.url);
  const before = processMemoryMiB(pid, 'VmRSS');
  const socket = connect(Number(port), hostname);
  await once(socket, 'connect');
  socket.pause();
  const body = target.body('flood', 'endless', 1);
  const headers = { host: hostname, 'content-type': 'application/json', ...target.headers };
  const lines = Object.entries({ ...headers, 'content-length': String(body.length) }).map(([n, v]) => `${n}: ${v}`);
  socket.write(`POST ${pathname} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n${body}`);
  let most = before;
  for (let index = 0; index < 30; index += 1) {
    await sleep(100);
    most = Math.max(most, processMemoryMiB(pid, 'VmRSS'));
  }
  const [part] = (await once(socket.resume(), 'data')) as [Buffer];
  socket.destroy();
  return part.toString('latin1').startsWith('HTTP/1.1 200') ? most - before : Number.NaN;
}

/** Half of them leave before the first token, half between two. @returns how long each took to reach the upstream */
async function disconnects(target: Target, upstream: string): Promise<number[]> {
  const { hostname, port, pathname } = new URL(target.url);
  const leftAt = new Map<string, number>();
  await Promise.all(
    Array.from({ length: DISCONNECTS }, async (_, index) => {
      const prompt = `leaver ${index}`;
      const sent = request({
        hostname,
        port,
        path: pathname,
        method: 'POST',
        headers: { 'content-type': 'application/json', ...target.headers },
      });
      sent.on('error', () => undefined);
      sent.on('response', (response) => response.on('error', () => undefined).resume());
      sent.end(target.body(index % 2 === 0 ? 'silent' : 'paced-20', prompt, 1000));
      await sleep(500 + index * 5);
      leftAt.set(prompt, Date.now());
      sent.destroy();
    }),
  );
  await sleep(1_000);
  const seen = (await (await fetch(`${upstream}/left`)).json()) as Record<string, number>;
  return [...leftAt].flatMap(([prompt, at]) => {
    const reached = seen[prompt];
    return reached === undefined ? [] : [reached - at];
  });
}
