import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { type CoordinatorProcess, freePort, startCoordinatorProcess } from './coordinator-process.js';
import { freshDatabase } from './fresh-database.js';
import { processMemoryMiB } from './process-memory.js';
import type { BenchmarkResult, ResultValue } from './result.js';

const MIB = 1024 * 1024;
const PART_MIB = 64;

interface Target {
  readonly coordinator: CoordinatorProcess;
  readonly versions: string;
}

/** A file of `sizeMib` equal blocks: none of it need be held here. */
interface Content {
  readonly block: Buffer;
  readonly sizeMib: number;
  readonly sha256: string;
}

/**
 * Uploads one artifact each way (one form, one PUT, parts) and downloads it, whole and by signed address, from a
 * coordinator process: how far its resident memory rises above what it held before each, and how fast the bytes went.
 */
export async function artifactBench({ sizeMib }: { sizeMib: number }): Promise<BenchmarkResult> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  const database = await freshDatabase();
  const coordinator = await startCoordinatorProcess({
    dataDir: join(folder, 'coordinator'),
    ...(database === undefined ? {} : { databaseUrl: database.url }),
    restPort: await freePort(),
    grpcPort: await freePort(),
    logFile: join(folder, 'coordinator.log'),
  });
  try {
    const model = await json(coordinator, 'POST', '/models', { name: 'artifact', framework: 'pytorch' });
    const target = { coordinator, versions: `/models/${model['id']}/versions` };
    const content = contentOf(sizeMib);
    const small = contentOf(1);
    const ways = { form: inOneForm, put: inOnePut, parts: inParts, download: whole, signed: bySignedAddress };
    // Code and buffers that any first transfer brings.
    let warm = 0;
    for (const way of Object.values(ways)) await way(target, small, `0.${warm++}.0`);
    const results: Record<string, ResultValue> = {};
    let major = 1;
    for (const [name, way] of Object.entries(ways)) {
      const before = processMemoryMiB(coordinator.pid, 'VmRSS');
      coordinator.resetPeak();
      const startedAt = performance.now();
      await way(target, content, `${major++}.0.0`);
      const seconds = (performance.now() - startedAt) / 1000;
      results[`${name}RiseMiB`] = Math.round(coordinator.peakRssMiB() - before);
      results[`${name}MiBPerSecond`] = Math.round(sizeMib / seconds);
    }
    return { ...results, restingRssMiB: Math.round(processMemoryMiB(coordinator.pid, 'VmRSS')) };
  } finally {
    await coordinator.stop();
    await database?.drop();
    await rm(folder, { recursive: true, force: true });
  }
}

function contentOf(sizeMib: number): Content {
  const block = randomBytes(MIB);
  const hash = createHash('sha256');
  for (let index = 0; index < sizeMib; index++) hash.update(block);
  return { block, sizeMib, sha256: hash.digest('hex') };
}

async function inOneForm({ coordinator, versions }: Target, content: Content, version: string): Promise<void> {
  const boundary = randomBytes(16).toString('hex');
  const head = Buffer.from(
    `--${boundary}\r\ncontent-disposition: form-data; name="version"\r\n\r\n${version}\r\n--${boundary}\r\ncontent-disposition: form-data; name="file"; filename="model.pt"\r\n\r\n`,
  );
  const tail = Buffer.from(`\r\n--${boundary}--\r\n`);
  const answer = await send(`${coordinator.restUrl}/api/v1${versions}/upload`, {
    method: 'POST',
    headers: {
      ...authorization(coordinator),
      'content-type': `multipart/form-data; boundary=${boundary}`,
      'content-length': head.length + content.sizeMib * MIB + tail.length,
    },
    chunks: (function* () {
      yield head;
      for (let index = 0; index < content.sizeMib; index++) yield content.block;
      yield tail;
    })(),
  });
  requireHash(await readJson(answer), content);
}

async function inOnePut(target: Target, content: Content, version: string): Promise<void> {
  const begun = await begin(target, version, {});
  await put(String(begun['upload_url']), content.block, content.sizeMib);
  await confirm(target, begun, content, version);
}

async function inParts(target: Target, content: Content, version: string): Promise<void> {
  const begun = await begin(target, version, {
    size_bytes: content.sizeMib * MIB,
    part_size_bytes: PART_MIB * MIB,
  });
  const parts = begun['parts'] as readonly { number: number; url: string }[];
  for (const { number, url } of parts) {
    await put(url, content.block, Math.min(PART_MIB, content.sizeMib - (number - 1) * PART_MIB));
  }
  await confirm(target, begun, content, version);
}

async function whole({ coordinator, versions }: Target, content: Content): Promise<void> {
  const url = `${coordinator.restUrl}/api/v1${versions}/${content.sizeMib === 1 ? '0.0.0' : '1.0.0'}/download`;
  await drain(await send(url, { headers: authorization(coordinator) }), content);
}

async function bySignedAddress({ coordinator, versions }: Target, content: Content): Promise<void> {
  const version = content.sizeMib === 1 ? '0.0.0' : '1.0.0';
  const { url } = await json(coordinator, 'GET', `${versions}/${version}/download-url?format=pytorch`);
  await drain(await send(String(url), {}), content);
}

function begin({ coordinator, versions }: Target, version: string, sizes: Record<string, number>) {
  return json(coordinator, 'POST', `${versions}/upload-url`, { version, filename: 'model.pt', ...sizes });
}

async function confirm(
  { coordinator, versions }: Target,
  begun: Json,
  content: Content,
  version: string,
): Promise<void> {
  const made = await json(coordinator, 'POST', `${versions}/confirm-upload`, {
    version,
    storage_key: begun['storage_key'],
    file_size: content.sizeMib * MIB,
    sha256: content.sha256,
  });
  requireHash(made, content);
}

async function put(url: string, block: Buffer, blocks: number): Promise<void> {
  const answer = await send(url, {
    method: 'PUT',
    headers: { 'content-length': blocks * MIB },
    chunks: Array.from({ length: blocks }, () => block),
  });
  await readJson(answer);
}

type Json = Record<string, unknown>;

const authorization = (coordinator: CoordinatorProcess) => ({ authorization: `Bearer ${coordinator.apiKey()}` });

async function json(coordinator: CoordinatorProcess, method: string, path: string, body?: unknown): Promise<Json> {
  return readJson(
    await send(`${coordinator.restUrl}/api/v1${path}`, {
      method,
      headers: { ...authorization(coordinator), ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { chunks: [Buffer.from(JSON.stringify(body))] }),
    }),
  );
}

interface Sending {
  readonly method?: string;
  readonly headers?: Record<string, string | number>;
  readonly chunks?: Iterable<Buffer>;
}

async function send(url: string, { method = 'GET', headers = {}, chunks = [] }: Sending): Promise<IncomingMessage> {
  const sending = request(url, { method, headers });
  const answered = once(sending, 'response') as Promise<[IncomingMessage]>;
  for (const chunk of chunks) if (!sending.write(chunk)) await once(sending, 'drain');
  sending.end();
  const [answer] = await answered;
  return answer;
}

async function readJson(answer: IncomingMessage): Promise<Json> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  if ((answer.statusCode ?? 500) >= 300) throw new OctomilError('internal', `${answer.statusCode}: ${text}`);
  return JSON.parse(text) as Json;
}

async function drain(answer: IncomingMessage, content: Content): Promise<void> {
  const hash = createHash('sha256');
  for await (const chunk of answer) hash.update(chunk as Buffer);
  requireHash({ model_hash: `sha256:${hash.digest('hex')}` }, content);
}

function requireHash(made: Json, { sha256 }: Content): void {
  if (made['model_hash'] === `sha256:${sha256}`) return;
  throw new OctomilError('checksum_mismatch', `the coordinator has ${made['model_hash']} and not sha256:${sha256}`);
}
