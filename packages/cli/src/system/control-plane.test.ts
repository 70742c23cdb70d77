import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Client, type ClientOptions, type UploadTicket } from '@octomil/sdk';
import { type Fleet, startFleet } from '../fleet/fleet.js';

let fleet: Fleet;
let folder: string;
let access: ClientOptions;
let client: Client;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-control-'));
  fleet = await startFleet({ agents: [{ name: 'ward-1', labels: { land: 'ch' } }, { name: 'ward-2' }] });
  access = { apiKey: fleet.apiKey, apiBase: fleet.apiBase };
  client = new Client(access);
}, 240_000);
afterAll(async () => {
  await fleet.stop();
  await rm(folder, { recursive: true });
}, 240_000);

/** Carries requests out and loses the answers to the first `lost` that match. */
function losing(lost: number, matches: (url: string) => boolean): { fetch: typeof fetch; sent: string[] } {
  let left = lost;
  const sent: string[] = [];
  return {
    sent,
    fetch: async (input, init) => {
      const url = String(input);
      sent.push(`${init?.method} ${url.slice(fleet.apiBase.length)}`);
      const answer = await fetch(input, init);
      if (!matches(url) || left-- <= 0) return answer;
      await answer.body?.cancel();
      throw new TypeError('fetch failed', { cause: { code: 'ECONNRESET' } });
    },
  };
}

const noWaiting = { sleep: () => Promise.resolve(), random: () => 0 };

test('a POST whose answers are lost three times has one effect', async () => {
  const { fetch: lossy, sent } = losing(3, (url) => url.endsWith('/models'));
  const registry = new Client({ ...access, fetch: lossy, timing: noWaiting }).registry;
  const before = (await client.registry.listModels()).length;
  const made = await registry.createModel({ name: 'once', framework: 'pytorch' });
  expect(sent).toHaveLength(4);
  expect(await client.registry.listModels()).toHaveLength(before + 1);
  await expect(client.registry.model('once')).resolves.toMatchObject({ id: made.id });
});

test('a large upload is cut off, goes on, and comes back as it was', async () => {
  const content = randomBytes(40 * 1024 * 1024);
  const path = join(folder, 'large.pt');
  await writeFile(path, content);
  const digest = createHash('sha256').update(content).digest('hex');
  await client.registry.ensureModel({ name: 'large' });
  const upload = { modelId: 'large', version: '1.0.0', filePath: path } as const;

  let ticket: UploadTicket | undefined;
  const controller = new AbortController();
  const cutOff = client.registry.uploadVersionFromPath({
    ...upload,
    signal: controller.signal,
    onTicket: (given) => {
      ticket = given;
    },
    onProgress: (bytes) => {
      if (bytes < content.length) controller.abort();
    },
  });
  await expect(cutOff).rejects.toMatchObject({ code: 'cancelled' });
  if (ticket === undefined) throw new TypeError('the upload gave no ticket');

  const { fetch: watched, sent } = losing(0, () => false);
  const resumed = new Client({ ...access, fetch: watched }).registry;
  const made = await resumed.uploadVersionFromPath({ ...upload, resume: ticket });
  expect(made).toMatchObject({ version: '1.0.0', status: 'draft', modelHash: `sha256:${digest}` });
  expect(sent.filter((request) => /^PUT .*\/parts\/\d+$/.test(request))).toHaveLength(2);

  const pulled = await client.registry.pullModelToPath({
    model: 'large',
    version: '1.0.0',
    path: join(folder, 'back'),
  });
  expect(pulled).toMatchObject({ digest, sizeBytes: content.length });
  expect((await readFile(join(folder, 'back'))).equals(content)).toBe(true);
  expect((await readdir(folder)).filter((name) => name.endsWith('.part'))).toEqual([]);
}, 240_000);

test('a wrong digest is refused, and the version is not made', async () => {
  await client.registry.ensureModel({ name: 'digest' });
  const upload = { modelId: 'digest', version: '1.0.0', fileName: 'm.onnx', content: new Blob(['x']) };
  await expect(client.registry.uploadVersion({ ...upload, sha256: '0'.repeat(64) })).rejects.toMatchObject({
    code: 'checksum_mismatch',
    status: 422,
  });
  await expect(client.registry.versions('digest')).resolves.toEqual([]);
});

test('a version from upload to deletion, by a name that no path takes as it is', async () => {
  const name = 'Häuser & Löwen ?#% 1';
  const { registry } = client;
  const { id } = await registry.ensureModel({ name });
  await expect(registry.updateModel(name, { description: 'd' })).resolves.toMatchObject({ id, description: 'd' });
  const content = new Blob(['x']);
  const first = await registry.uploadVersion({ modelId: name, fileName: 'm.onnx', content });
  await registry.updateMetrics({ modelId: name, version: first.version, metrics: { accuracy: 0.9 } });
  await registry.publishVersion({ modelId: name, version: first.version });
  await expect(registry.latestVersion(name)).resolves.toMatchObject({
    version: first.version,
    status: 'published',
    metrics: { accuracy: 0.9 },
  });
  await expect(registry.lineage({ modelId: name, version: 'latest' })).resolves.toMatchObject({
    chain: [expect.objectContaining({ version: first.version })],
  });
  await expect(registry.conversions.status({ modelId: name, version: first.version })).resolves.toEqual([]);
  await registry.deprecateVersion({ modelId: name, version: first.version });
  await registry.deleteVersion({ modelId: name, version: first.version });
  await registry.deleteModel(name);
  await expect(registry.model(name)).rejects.toMatchObject({ code: 'model_not_found', status: 404 });
  await expect(registry.model('n'.repeat(1000))).rejects.toMatchObject({ code: 'model_not_found', status: 404 });
});

test('devices by label and group, and what was changed is in the audit log', async () => {
  const { devices, groups, auditLog } = client;
  const names = async (options: Parameters<typeof devices.list>[0]) =>
    (await devices.list(options)).map(({ deviceIdentifier }) => deviceIdentifier).sort();
  await expect(names({ labels: { land: 'ch' } })).resolves.toEqual(['ward-1']);
  await devices.setLabels({ deviceId: 'ward-2', labels: { land: 'ch', floor: '2' } });
  await expect(names({ labels: { land: 'ch' } })).resolves.toEqual(['ward-1', 'ward-2']);
  const group = await groups.create({ name: 'wards' });
  await groups.addDevices({ group: 'wards', devices: ['ward-1', 'ward-2'] });
  await groups.removeDevices({ group: group.id, devices: ['ward-1'] });
  await expect(names({ group: 'wards' })).resolves.toEqual(['ward-2']);
  const members: string[] = [];
  for await (const { deviceIdentifier } of groups.devices({ group: 'wards' })) members.push(deviceIdentifier);
  expect(members).toEqual(['ward-2']);
  await groups.delete({ group: 'wards' });
  await expect(groups.list()).resolves.toEqual([]);

  const first = await auditLog.list({ limit: 1 });
  expect(first.nextCursor).not.toBeNull();
  const actions = new Set<string>();
  for await (const { action, actor, createdAt } of auditLog.entries()) {
    actions.add(action);
    expect(actor).toMatch(/^(key:|device:|coordinator)/);
    expect(createdAt).toMatch(/Z$/);
  }
  expect(actions.size).toBeGreaterThan(3);
});

test('an organization is invited, joins, sees what is shared and nothing else, and leaves', async () => {
  const { database, keys } = fleet.coordinator.context;
  const guests = randomUUID();
  await database.kysely.insertInto('organizations').values({ id: guests, name: 'guests' }).execute();
  const guest = new Client({ ...access, apiKey: (await keys.create(guests, 'theirs', ['admin'])).key, orgId: guests });
  const federation = client.federation('network');
  const shared = await client.registry.ensureModel({ name: 'shared' });
  await client.registry.ensureModel({ name: 'kept' });
  await expect(federation.invite({ orgIds: [guests] })).resolves.toMatchObject([{ orgId: guests, status: 'invited' }]);
  const [invitation] = await guest.federations({ status: 'invited' });
  const joined = guest.federation({ id: String(invitation?.['id']) });
  await expect(guest.registry.model(shared.id)).rejects.toMatchObject({ status: 404 });
  await expect(joined.join()).resolves.toMatchObject({ orgId: guests, status: 'active' });
  await federation.shareModel({ model: 'shared' });
  await expect(joined.models()).resolves.toMatchObject([{ id: shared.id, name: 'shared' }]);
  await expect(guest.registry.model(shared.id)).resolves.toMatchObject({ name: 'shared' });
  const members = (await federation.members()).map(({ orgId }) => orgId);
  expect(members).toContain(guests);
  await federation.unshareModel({ model: 'shared' });
  await expect(guest.registry.model(shared.id)).rejects.toMatchObject({ status: 404 });
  await joined.leave();
  await expect(joined.members()).rejects.toMatchObject({ status: 404 });
});
