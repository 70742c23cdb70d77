import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type Coordinator, startCoordinator } from '@octomil/coordinator';
import { Client } from '@octomil/sdk';
import { encodeModelDocument, initialWeights, modelDocument, parseArchitecture } from '@octomil/shared/models';
import { silentLogger } from '@octomil/shared/runtime';
import { encodeWeights } from '@octomil/shared/tensors';
import { pushFiles } from '../push/push-files.js';
import { octomil as inProcess } from './octomil-command.js';
import { inTerminal, type TerminalResult } from './terminal.js';

const DOCUMENT = modelDocument(parseArchitecture({ name: 'mlp', hidden: [3] }), 4);

let folder: string;
let coordinator: Coordinator;
let apiBase: string;
let apiKey: string;
const at = (name: string): string => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-command-line-'));
  coordinator = await startCoordinator({
    database: 'memory',
    logger: silentLogger,
    environment: { OCTOMIL_REST_PORT: '0', OCTOMIL_GRPC_PORT: '0', OCTOMIL_DATA_DIR: at('coordinator') },
  });
  apiBase = `${coordinator.restUrl}/api/v1`;
  apiKey = coordinator.bootstrapApiKey ?? '';
  await writeFile(at('model.json'), encodeModelDocument(DOCUMENT));
  await writeFile(at('heart.safetensors'), encodeWeights(initialWeights(DOCUMENT.architecture, 4, 7)));
}, 240_000);
afterAll(async () => {
  await coordinator.stop();
  await rm(folder, { recursive: true });
}, 240_000);

/** Without a key or an address of its own. */
const NOBODY = { OCTOMIL_API_BASE: '', OCTOMIL_API_KEY: '', OCTOMIL_SERVER_KEY: '' };

function octomil(...args: string[]): Promise<TerminalResult> {
  const access = { OCTOMIL_API_BASE: apiBase, OCTOMIL_API_KEY: apiKey };
  return inTerminal(args, { ...access, OCTOMIL_CREDENTIALS: at('home/credentials') });
}

async function json(...args: string[]): Promise<Record<string, unknown>> {
  const { exitCode, out, err } = await octomil(...args, '--json');
  expect([exitCode, err]).toEqual([0, '']);
  return JSON.parse(out) as Record<string, unknown>;
}

test('a login is checked, kept for this user alone, used, and forgotten', async () => {
  const environment = { ...NOBODY, OCTOMIL_CREDENTIALS: at('person/credentials') };
  const command = (...args: string[]): Promise<TerminalResult> => inTerminal(args, environment);
  const refused = await command('login', '--api-base', apiBase, '--api-key', 'edg_wrong');
  expect(refused).toMatchObject({ exitCode: 1, err: expect.stringMatching(/^error \[invalid_api_key\]/) });
  await expect(stat(at('person'))).rejects.toThrow();
  expect((await command('models', 'list')).err).toMatch(/\[invalid_api_key\]: no API key.*octomil login/);

  const { key } = await json('keys', 'create', 'narrow', '--scope', 'devices:read');
  const kept = await command('login', '--api-base', `${apiBase}/`, '--api-key', String(key));
  expect(kept.out).toBe(`Logged in at ${apiBase}; the key is kept in ${at('person/credentials')}.\n`);
  expect((await stat(at('person/credentials'))).mode & 0o777).toBe(0o600);
  expect((await command('devices', 'list')).exitCode).toBe(0);
  // The environment goes first; a kept key goes to the coordinator that it is for and to no other.
  const elsewhere = { ...environment, OCTOMIL_API_BASE: 'http://127.0.0.1:9/api/v1' };
  expect((await inTerminal(['devices', 'list'], elsewhere)).err).toMatch(/\[invalid_api_key\].*is kept is for/);
  const other = await inTerminal(['models', 'list'], { ...environment, OCTOMIL_API_KEY: apiKey });
  expect(other.exitCode).toBe(0);

  expect((await command('logout')).out).toBe('Logged out.\n');
  expect((await command('logout')).out).toBe('Nobody was logged in.\n');
  await writeFile(at('person/credentials'), 'edg_x');
  expect((await command('models', 'list')).err).toMatch(/\[corrupt_file\].*octomil login/);
}, 180_000);

test('a key that is piped in is read as it is', async () => {
  await writeFile(at('key.txt'), `${apiKey}\n`);
  const environment = { ...NOBODY, OCTOMIL_API_BASE: apiBase, OCTOMIL_CREDENTIALS: at('piped') };
  const { exitCode, err } = await inProcess(['login'], { environment, shellPrefix: `exec < '${at('key.txt')}'` });
  expect([exitCode, err]).toEqual([0, '']);
  expect(JSON.parse(await readFile(at('piped'), 'utf8'))).toEqual({ api_base: apiBase, api_key: apiKey });
}, 180_000);

test('a file is checked, converted here, pushed with formats made here and there, and its version looked after', async () => {
  const checked = await octomil('check', at('heart.safetensors'));
  expect(checked).toMatchObject({ exitCode: 0, out: expect.stringMatching(/format +safetensors\n[\s\S]*F32 +4×3/) });
  await writeFile(at('odd.pkl'), Buffer.from([0x80, 4, 0x2e]));
  expect(await octomil('check', at('odd.pkl'))).toMatchObject({
    exitCode: 1,
    out: expect.stringMatching(/PROBLEM {2}/),
  });
  const converted = await octomil('convert', at('heart.safetensors'), '--to', 'onnx', '-o', folder);
  expect(converted.out).toMatch(/heart\.onnx\nsafetensors to onnx, 19 parameters, /);
  expect((await octomil('convert', at('heart.safetensors'), '-t', 'gguf')).exitCode).toBe(2);

  // The document lies beside the weights: ONNX is made here. Nobody makes Core ML: that is left to the coordinator.
  const pushed = await json('push', at('heart.safetensors'), '-m', 'heart ♥', '-f', 'onnx', '-d', 'the first');
  expect(pushed).toMatchObject({ version: '1.0.0', status: 'draft', description: 'the first' });
  expect(Object.keys(pushed['formats'] as object).sort()).toEqual(['onnx', 'safetensors']);
  expect(await json('versions', 'publish', 'heart ♥', '1.0.0')).toMatchObject({ status: 'published' });
  expect((await octomil('versions', 'metrics', 'heart ♥', '1.0.0', '--set', 'accuracy=0.9')).out).toMatch(
    /accuracy +0\.9/,
  );
  expect((await octomil('versions', 'lineage', 'heart ♥', 'latest')).exitCode).toBe(0);
  expect((await octomil('models', 'show', 'heart ♥')).out).toMatch(/1\.0\.0 +published +\S.*onnx/);
  expect((await octomil('versions', 'formats', 'heart ♥', '1.0.0')).out).toMatch(/No format was asked for/);
  const pulled = await octomil('pull', 'heart ♥', '-f', 'onnx', '-o', at('pulled.onnx'));
  expect(pulled.exitCode).toBe(0);
  expect(await readFile(at('pulled.onnx'))).toEqual(await readFile(at('heart.onnx')));
  expect(await json('versions', 'deprecate', 'heart ♥', '1.0.0')).toMatchObject({ status: 'deprecated' });
  expect(await json('models', 'update', 'heart ♥', '--name', 'heart', '--baseline')).toMatchObject({
    isBaseline: true,
  });
  expect((await octomil('models', 'list', '--no-baseline')).out).toMatch(/There are no models/);
  expect((await octomil('models', 'delete', 'heart')).out).toBe('heart is deleted.\n');
}, 240_000);

test('a push that was cut off goes on with the parts that had arrived', async () => {
  const path = at('large.pt');
  await writeFile(path, randomBytes(40 * 1024 * 1024));
  await octomil('models', 'ensure', 'large');
  const sent: string[] = [];
  const controller = new AbortController();
  const recording =
    (cutAt: string): typeof fetch =>
    async (input, init) => {
      const part = /\/parts\/(\d+)$/.exec(String(input))?.[1];
      if (part === cutAt) controller.abort();
      else if (part !== undefined) sent.push(part);
      return fetch(input, init);
    };
  const push = (cutAt: string, signal: AbortSignal) => {
    const { registry } = new Client({ apiBase, apiKey, fetch: recording(cutAt) });
    const file = { path, format: undefined, sizeBytes: 40 * 1024 * 1024 };
    const target = { registry, apiBase, model: 'large', version: '1.0.0', description: undefined, formats: [], signal };
    return pushFiles([file], target);
  };
  const before = process.env['OCTOMIL_CREDENTIALS'];
  process.env['OCTOMIL_CREDENTIALS'] = at('pusher/credentials');
  try {
    await expect(push('3', controller.signal)).rejects.toMatchObject({ code: 'cancelled' });
    const [ticket = ''] = await readdir(at('pusher/uploads'));
    expect((await stat(join(at('pusher/uploads'), ticket))).mode & 0o777).toBe(0o600);
    await expect(push('none', new AbortController().signal)).resolves.toMatchObject({ version: '1.0.0' });
    expect(sent).toEqual(['1', '2', '3']);
    expect(await readdir(at('pusher/uploads'))).toEqual([]);
  } finally {
    if (before === undefined) delete process.env['OCTOMIL_CREDENTIALS'];
    else process.env['OCTOMIL_CREDENTIALS'] = before;
  }
}, 240_000);

test('federations: made, found by name, never made by a mistyped one; invited, joined, shared and left', async () => {
  const { keys, database } = coordinator.context;
  const [row] = await database.kysely
    .insertInto('organizations')
    .values({ id: 'org-guest', name: 'guest' })
    .returningAll()
    .execute();
  const guestKey = (await keys.create(row?.id ?? '', 'guest', ['admin'])).key;
  const guest = (...args: string[]): Promise<TerminalResult> =>
    inTerminal(args, { OCTOMIL_API_BASE: apiBase, OCTOMIL_API_KEY: guestKey });
  expect((await octomil('federation', 'create', 'hearts', '-d', 'all of them')).out).toMatch(/^hearts {2}\S+\n$/);
  expect((await octomil('federation', 'create', 'hearts')).err).toMatch(/\[conflict\]/);
  expect((await octomil('federation', 'show', 'haerts')).err).toMatch(/\[not_found\].*haerts.*there are: hearts/);
  expect((await octomil('federation', 'invite', 'hearts', '--org', 'org-guest')).exitCode).toBe(0);
  expect((await guest('federation', 'list', '--invited')).out).toMatch(/hearts +invited/);
  expect((await guest('federation', 'join', 'hearts')).out).toBe('Joined hearts.\n');
  await octomil('models', 'ensure', 'ours');
  expect((await octomil('federation', 'share', 'ours', '-f', 'hearts')).out).toBe('ours is shared with hearts.\n');
  expect((await guest('federation', 'show', 'hearts')).out).toMatch(/ours/);
  expect((await octomil('federation', 'unshare', 'ours', '-f', 'hearts')).exitCode).toBe(0);
  expect((await octomil('federation', 'members', 'hearts')).out).toMatch(/org-guest +active/);
  expect((await guest('federation', 'leave', 'hearts')).out).toBe('Left hearts.\n');
  const audited = await octomil('audit', 'list', '--limit', '3');
  expect(audited.out.trim().split('\n')).toHaveLength(4);
}, 180_000);
