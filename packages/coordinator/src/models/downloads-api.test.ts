import { createHmac, randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { encodeWeights } from '@octomil/shared/tensors';
import { RegistryClient, sha256 } from './testing/registry-client.js';

const weights = () =>
  encodeWeights([{ name: 'w', shape: [100], data: new Float32Array(100).map(() => Math.random()) }]);

let client: RegistryClient;

beforeAll(async () => {
  client = await RegistryClient.start();
}, 240_000);
afterAll(() => client.stop());
beforeEach(() => client.newModel());

describe('a download', () => {
  test('whole, by range, only when it changed, as a head, by format', async () => {
    const bytes = weights();
    await client.upload({ version: '1.0.0' }, bytes, 'model.safetensors');
    const etag = `"${sha256(bytes)}"`;
    const path = `${client.base}/1/download`;
    const whole = await client.download(path);
    expect(Object.fromEntries(whole.headers)).toMatchObject({
      'content-length': String(bytes.length),
      'x-model-hash': `sha256:${sha256(bytes)}`,
      'accept-ranges': 'bytes',
      'content-type': 'application/octet-stream',
      etag,
    });
    expect(Buffer.from(await whole.arrayBuffer()).equals(bytes)).toBe(true);
    for (const [range, start, end] of [
      ['bytes=5-9', 5, 10],
      ['bytes=-7', bytes.length - 7, bytes.length],
      ['bytes=20-', 20, bytes.length],
      [`bytes=0-${bytes.length * 2}`, 0, bytes.length],
    ] as const) {
      const part = await client.download(path, { range, 'if-range': etag });
      expect([part.status, part.headers.get('content-range')]).toEqual([
        206,
        `bytes ${start}-${end - 1}/${bytes.length}`,
      ]);
      expect(Buffer.from(await part.arrayBuffer()).equals(bytes.subarray(start, end))).toBe(true);
    }
    const changed = await client.download(path, { range: 'bytes=5-9', 'if-range': '"other"' });
    expect([changed.status, (await changed.arrayBuffer()).byteLength]).toEqual([200, bytes.length]);
    expect((await client.download(path, { range: `bytes=${bytes.length}-` })).status).toBe(416);
    for (const known of [etag, `"a", ${etag}`, '*', `W/${etag}`]) {
      expect((await client.download(path, { 'if-none-match': known })).status).toBe(304);
    }
    const head = await client.download(path, {}, 'HEAD');
    expect([head.status, head.headers.get('content-length')]).toEqual([200, String(bytes.length)]);
    expect((await client.download(`${path}?format=safetensors`)).status).toBe(200);
    expect((await client.download(`${path}?format=a%20b`)).status).toBe(400);
    expect((await fetch(client.url(path))).status).toBe(401);
  });

  test('by an address of its own, without a key, until it expires; and by name and tag', async () => {
    const bytes = randomBytes(500);
    await client.upload({ version: '1.0.0' }, bytes, 'net.onnx');
    await client.json('POST', `${client.base}/1.0.0/publish`, {});
    const { body } = await client.json('GET', `${client.base}/latest/download-url`);
    expect(body).toMatchObject({ format: 'onnx', size_bytes: 500, checksum: sha256(bytes) });
    const plain = await fetch(String(body['url']), { redirect: 'error', headers: { range: 'bytes=0-1' } });
    expect(plain.status).toBe(206);
    expect((await fetch(`${body['url']}x`)).status).toBe(403);
    expect((await client.json('GET', `${client.base}/1/download-url?format=coreml`)).body).toMatchObject({
      code: 'format_not_ready',
    });
    expect((await client.json('GET', `${client.base}/1/download-url?expires_in_seconds=0`)).status).toBe(400);
    const { body: model } = await client.json('GET', `/models/${client.modelId}`);
    const pulled = await client.json('POST', '/registry/pull', { name: model['name'], tag: 'latest', org_id: 'x' });
    expect(pulled).toMatchObject({
      status: 200,
      body: { name: model['name'], tag: '1.0.0', format: 'onnx', size_bytes: 500, checksum: sha256(bytes) },
    });
    const got = await fetch(String(pulled.body['download_url']));
    expect(Buffer.from(await got.arrayBuffer()).equals(bytes)).toBe(true);
    expect(await client.json('POST', '/registry/pull', {})).toMatchObject({ status: 400 });
    expect(await client.json('POST', '/registry/pull', { name: 'nobody' })).toMatchObject({ status: 404 });
  });

  test('of a file that was deleted behind our back says which, at once', async () => {
    const { body } = await client.upload({ version: '1.0.0' });
    await rm(join(client.coordinator.context.config.objectFolder, 'objects', String(body['model_path'])));
    for (const path of [`${client.base}/1/download`, `${client.base}/1/download-url?format=pytorch`]) {
      const failed = await client.json('GET', path);
      expect(failed).toMatchObject({ status: 502, body: { code: 'download_failed' } });
      expect(String(failed.body['message'])).toContain(String(body['model_path']));
    }
  });
});

test('however uploads and deletions of the same bytes meet, a version that is there has its file', async () => {
  const bytes = randomBytes(2000);
  await client.upload({ version: '1.0.0' }, bytes);
  for (let round = 1; round <= 8; round++) {
    const [made] = await Promise.all([
      client.upload({ version: `${round + 1}.0.0` }, bytes),
      client.json('DELETE', `${client.base}/${round}.0.0`),
    ]);
    expect(made.status).toBe(201);
    const got = await client.download(`${client.base}/${round + 1}.0.0/download`);
    expect([got.status, (await got.arrayBuffer()).byteLength]).toEqual([200, 2000]);
  }
  await client.json('DELETE', `${client.base}/9.0.0`);
  expect(await client.storedKeys(`artifacts/${sha256(bytes)}`)).toEqual([]);
});

test('a published client’s device token may get the address of a file, until the device is revoked', async () => {
  await client.upload({ version: '1.0.0' });
  const device_identifier = 'phone';
  const org_id = client.coordinator.organizationId;
  await client.json('POST', '/devices/register', { device_identifier, org_id });
  const bootstrap = { org_id, device_identifier, scopes: ['models:read'] };
  const { body } = await client.json('POST', '/device-auth/bootstrap', bootstrap);
  const own = client.key;
  client.key = String(body['access_token']);
  const address = await client.json('GET', `${client.base}/1.0.0/download-url?format=pytorch`);
  expect(address.status).toBe(200);
  expect((await fetch(String(address.body['url']))).status).toBe(200);
  expect((await client.json('DELETE', `${client.base}/1.0.0`)).status).toBe(403);
  client.key = own;
  const { kysely } = client.coordinator.context.database;
  await kysely
    .updateTable('devices')
    .set({ status: 'revoked' })
    .where('device_identifier', '=', device_identifier)
    .execute();
  expect((await fetch(String(address.body['url']))).status).toBe(403);
});

test('nobody can sign an address with what they hold: neither a key’s owner nor a device', async () => {
  const secret = randomBytes(300);
  await client.upload({ version: '1.0.0' }, secret);
  const { kysely } = client.coordinator.context.database;
  const { id: versionId } = await kysely
    .selectFrom('versions')
    .select('id')
    .where('model_id', '=', client.modelId)
    .executeTakeFirstOrThrow();
  const forged = (purpose: string, caller: string, subject: string, held: string): string => {
    const claims = { k: caller, s: subject, e: Date.now() + 60_000 };
    const payload = Buffer.from(JSON.stringify(claims)).toString('base64url');
    // All that is kept of a key or token is its SHA-256, which whoever holds it can compute as well.
    const mac = createHmac('sha256', sha256(Buffer.from(held)))
      .update(`${purpose}\0${payload}`)
      .digest('base64url');
    return `${payload}.${mac}`;
  };
  const bytes = JSON.stringify([versionId, 'pytorch']);
  await client.asOutsider(async (org_id) => {
    const { keyId } = await client.coordinator.context.keys.verify(client.key);
    expect((await fetch(client.url(`/downloads/${forged('download', keyId, bytes, client.key)}`))).status).toBe(403);
    const upload = forged('upload', keyId, `uploads/${client.modelId}/next/x/y`, client.key);
    expect((await fetch(client.url(`/uploads/${upload}`), { method: 'PUT', body: 'x' })).status).toBe(403);
    const bootstrap = { org_id, device_identifier: 'forger', scopes: ['devices:heartbeat'] };
    const { body } = await client.json('POST', '/device-auth/bootstrap', bootstrap);
    const device = forged('download', `device:${body['device_id']}`, bytes, String(body['refresh_token']));
    expect((await fetch(client.url(`/downloads/${device}`))).status).toBe(403);
    // Names that no row can have.
    for (const caller of ['\0', 'device:\0', '\ud800']) {
      const odd = forged('download', caller, bytes, client.key);
      expect([caller, (await fetch(client.url(`/downloads/${odd}`))).status]).toEqual([caller, 403]);
    }
  });
});
