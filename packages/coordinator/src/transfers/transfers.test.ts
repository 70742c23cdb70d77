import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { createMetrics, type Logger, silentLogger, systemClock } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { Database } from '../database/database.js';
import { createDeviceService, type DeviceService, registerDeviceRoutes } from '../devices/index.js';
import { type App, createApp } from '../http/index.js';
import { insertAssignment, insertEnrollmentToken, insertOrganization } from '../testing/enrolled-device.js';
import { FakeAssignmentPort } from '../testing/fake-assignment-port.js';
import { openTestDatabase } from '../testing/index.js';
import { NO_ROLLOUTS } from '../testing/no-rollouts.js';
import type { UpdateHeaderFields } from '../training/assignment-port.js';
import { createTransferService, type IssuedTicket, registerTransferRoutes, type TransferService } from './index.js';

const MIB = 1024 * 1024;
const PART = 5 * MIB;
const SIZE = 2 * PART + 1234;

let database: Database;
let organizationId: string;
let folder: string;
let devices: DeviceService;
let assignments: FakeAssignmentPort;
let transfers: TransferService;
let app: App;
let url: string;
let device: { deviceId: string; credential: string };
let errors: unknown[] = [];

beforeAll(async () => {
  database = await openTestDatabase();
  organizationId = await insertOrganization(database);
});

afterAll(() => database.close());

function newTransfers(ticketLifetimeMs = 60_000): TransferService {
  return createTransferService({
    database,
    assignments,
    rollouts: NO_ROLLOUTS,
    hub: devices.hub,
    clock: systemClock,
    logger: {
      ...silentLogger,
      error: (fields: unknown, message: string) => errors.push([fields, message]),
    } as unknown as Logger,
    // Only what a download asks of a store: where the object lies.
    objects: { localFile: async (key: string) => ({ path: key, release: async () => undefined }) } as ObjectStore,
    settings: { stagingRoot: join(folder, 'staging'), partSizeBytes: PART, ticketLifetimeMs, partIdleMs: 300 },
  });
}

async function newApp(): Promise<void> {
  app = await createApp({
    authenticator: {
      verifyKey: async (key) => ({ kind: 'key', organizationId, keyId: 'k', scopes: key.split('.').slice(1) }),
      verifyDeviceCredential: (credential) => devices.authenticate(credential),
    },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
  });
  registerTransferRoutes(app, { transfers });
  registerDeviceRoutes(app, { database, devices, desired: { devicesChanged: () => undefined } });
  url = await app.listen({ host: '127.0.0.1', port: 0 });
}

async function newDevice(): Promise<{ deviceId: string; credential: string }> {
  const enrollmentToken = await insertEnrollmentToken(database, organizationId);
  return devices.enroll({ enrollmentToken, deviceIdentifier: `d-${randomUUID()}`, labels: {}, agentVersion: '1' });
}

beforeEach(async () => {
  errors = [];
  folder = await mkdtemp(join(tmpdir(), 'octomil-transfers-'));
  assignments = new FakeAssignmentPort();
  devices = createDeviceService({ database, clock: systemClock, logger: silentLogger, coordinatorId: randomUUID() });
  transfers = newTransfers();
  await transfers.start();
  await newApp();
  device = await newDevice();
});

afterEach(async () => {
  await app.close();
  await transfers.stop();
  await rm(folder, { recursive: true, force: true });
});

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

async function headerOf(bytes: Uint8Array): Promise<UpdateHeaderFields> {
  const assignmentId = await insertAssignment(database, organizationId, device.deviceId);
  return {
    key: { assignmentId, attempt: 1 },
    format: 'delta',
    sizeBytes: bytes.length,
    sha256: digest(bytes),
    sampleCount: 5,
    metrics: {},
  };
}

async function issue(
  header: UpdateHeaderFields,
  of = transfers,
): Promise<{ ticket: IssuedTicket; receivedParts: number[] }> {
  const issued = await of.issueTicket(device.deviceId, header);
  if ('verdict' in issued) throw new OctomilError('internal', 'a ticket was expected');
  return issued;
}

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

async function call(
  method: string,
  path: string,
  ticket: { token: string },
  body?: Uint8Array,
  credential = device.credential,
): Promise<Answer> {
  const response = await fetch(`${url}/api/v1/transfers/${path}`, {
    method,
    headers: {
      authorization: `Bearer ${credential}`,
      'x-octomil-ticket': ticket.token,
      ...(body === undefined ? {} : { 'content-type': 'application/octet-stream' }),
    },
    ...(body === undefined ? {} : { body: Buffer.from(body) }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

const part = (bytes: Uint8Array, index: number): Uint8Array => bytes.subarray(index * PART, (index + 1) * PART);
const put = (ticket: IssuedTicket, bytes: Uint8Array, index: number): Promise<Answer> =>
  call('PUT', `${ticket.id}/parts/${index}`, ticket, part(bytes, index));

/** Sends the head of a request and some of its body, then waits for what comes back, or hangs up. */
function rawPut(
  ticket: IssuedTicket,
  index: number,
  headers: string[],
  body: Uint8Array,
  hangUp: boolean,
): Promise<string> {
  return new Promise((resolve) => {
    const { port } = new URL(url);
    const socket = connect({ host: '127.0.0.1', port: Number(port) });
    let answer = '';
    socket.on('data', (data) => {
      answer += data.toString();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(answer));
    socket.write(
      [
        `PUT /api/v1/transfers/${ticket.id}/parts/${index} HTTP/1.1`,
        'host: test',
        `authorization: Bearer ${device.credential}`,
        `x-octomil-ticket: ${ticket.token}`,
        'content-type: application/octet-stream',
        ...headers,
        '',
        '',
      ].join('\r\n'),
    );
    socket.write(body, () => {
      if (hangUp) setTimeout(() => socket.destroy(), 20);
    });
  });
}

test('parts arrive in any order, survive a cut and a restart, and complete once', async () => {
  const bytes = randomBytes(SIZE);
  const header = await headerOf(bytes);
  const { ticket, receivedParts } = await issue(header);
  expect(receivedParts).toEqual([]);
  expect(ticket.layout).toEqual({ sizeBytes: SIZE, partSizeBytes: PART, partCount: 3 });
  expect((await put(ticket, bytes, 2)).body['received_parts']).toEqual([2]);
  // Cut in the middle of a part.
  await rawPut(ticket, 0, [`content-length: ${PART}`], part(bytes, 0).subarray(0, MIB), true);
  expect((await call('GET', ticket.id, ticket)).body).toMatchObject({
    received_parts: [2],
    part_count: 3,
    completed: false,
  });
  const early = await call('POST', `${ticket.id}/complete`, ticket);
  expect(early).toMatchObject({
    status: 409,
    body: { code: 'transfer_incomplete', details: { missingParts: [0, 1] } },
  });
  await put(ticket, bytes, 0);

  // Another process finds what the one before had received.
  await app.close();
  await transfers.stop();
  transfers = newTransfers();
  await transfers.start();
  await newApp();
  const again = await issue(header);
  expect(again.ticket.id).toBe(ticket.id);
  expect(again.receivedParts).toEqual([0, 2]);
  expect((await put(again.ticket, bytes, 1)).status).toBe(200);
  expect(await call('POST', `${ticket.id}/complete`, again.ticket)).toEqual({ status: 200, body: { accepted: true } });
  expect(await call('POST', `${ticket.id}/complete`, again.ticket)).toEqual({ status: 200, body: { accepted: true } });
  expect(assignments.updates).toMatchObject([
    { deviceId: device.deviceId, sha256: digest(bytes), header: { sampleCount: 5 } },
  ]);
  expect((await readdir(join(folder, 'staging', '0'))).filter((name) => name.startsWith(ticket.id))).toEqual([]);
  expect(await transfers.issueTicket(device.deviceId, header)).toEqual({ verdict: { accepted: true } });
});

test('parts sent side by side give the right digest', async () => {
  const bytes = randomBytes(SIZE);
  const { ticket } = await issue(await headerOf(bytes));
  await Promise.all([2, 0, 1].map((index) => put(ticket, bytes, index)));
  expect(await call('POST', `${ticket.id}/complete`, ticket)).toMatchObject({ body: { accepted: true } });
  // A part that has arrived is not written again, whatever it says now.
  expect((await put(ticket, randomBytes(SIZE), 1)).status).toBe(200);
  expect(assignments.updates).toMatchObject([{ sha256: digest(bytes) }]);
});

test('other bytes for a part that has arrived change nothing', async () => {
  const bytes = randomBytes(SIZE);
  const { ticket } = await issue(await headerOf(bytes));
  await put(ticket, bytes, 0);
  expect((await put(ticket, randomBytes(SIZE), 0)).status).toBe(200);
  await put(ticket, bytes, 1);
  await put(ticket, bytes, 2);
  expect(await call('POST', `${ticket.id}/complete`, ticket)).toMatchObject({ body: { accepted: true } });
});

test('two connections with the same part: the later one takes over', async () => {
  const bytes = randomBytes(SIZE);
  const { ticket } = await issue(await headerOf(bytes));
  const stuck = rawPut(ticket, 0, [`content-length: ${PART}`], randomBytes(MIB), false);
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect((await put(ticket, bytes, 0)).body['received_parts']).toEqual([0]);
  expect(await stuck).toMatch(/^HTTP\/1.1 4(?:09|08)|^HTTP\/1.1 504|^$/);
  await put(ticket, bytes, 1);
  await put(ticket, bytes, 2);
  expect(await call('POST', `${ticket.id}/complete`, ticket)).toMatchObject({ body: { accepted: true } });
});

test('a part of another length is refused with the limit, announced or not', async () => {
  const bytes = randomBytes(SIZE);
  const { ticket } = await issue(await headerOf(bytes));
  expect(await call('PUT', `${ticket.id}/parts/0`, ticket, bytes.subarray(0, PART + 1))).toMatchObject({
    status: 413,
    body: { code: 'too_large', details: { limitBytes: PART } },
  });
  expect(await call('PUT', `${ticket.id}/parts/0`, ticket, bytes.subarray(0, 10))).toMatchObject({
    body: { code: 'transfer_incomplete' },
  });
  expect(await call('PUT', `${ticket.id}/parts/3`, ticket, bytes.subarray(0, 10))).toMatchObject({
    status: 400,
    body: { code: 'invalid_input' },
  });
  const chunk = Buffer.concat([
    Buffer.from(`${(PART + 1000).toString(16)}\r\n`),
    randomBytes(PART + 1000),
    Buffer.from('\r\n'),
  ]);
  expect(await rawPut(ticket, 0, ['transfer-encoding: chunked'], chunk, false)).toMatch(/^HTTP\/1.1 413.*too_large/s);
  expect((await call('GET', ticket.id, ticket)).body['received_parts']).toEqual([]);
});

test('a part that stalls is cut off and can be sent again', async () => {
  const bytes = randomBytes(SIZE);
  const { ticket } = await issue(await headerOf(bytes));
  const answer = await rawPut(ticket, 0, [`content-length: ${PART}`], bytes.subarray(0, MIB), false);
  expect(answer).toMatch(/^HTTP\/1.1 504.*no byte of part 0/s);
  expect((await put(ticket, bytes, 0)).status).toBe(200);
});

test('bytes that do not have the announced digest are dropped and can be sent again', async () => {
  const bytes = randomBytes(SIZE);
  const { ticket } = await issue(await headerOf(bytes));
  const wrong = Buffer.from(bytes);
  wrong[SIZE - 1] = (wrong[SIZE - 1] ?? 0) ^ 1;
  for (const index of [0, 1, 2]) await put(ticket, wrong, index);
  expect(await call('POST', `${ticket.id}/complete`, ticket)).toMatchObject({
    status: 422,
    body: { code: 'checksum_mismatch', details: { expected: digest(bytes), received: digest(wrong) } },
  });
  expect(assignments.updates).toHaveLength(0);
  expect((await call('GET', ticket.id, ticket)).body['received_parts']).toEqual([]);
  for (const index of [0, 1, 2]) await put(ticket, bytes, index);
  expect(await call('POST', `${ticket.id}/complete`, ticket)).toMatchObject({ body: { accepted: true } });
});

test('a rejected update says why, and a closed round ends the ticket', async () => {
  const bytes = randomBytes(1000);
  const first = await issue(await headerOf(bytes));
  await put(first.ticket, bytes, 0);
  assignments.verdict = { accepted: false, reason: { code: 'update_rejected', message: 'NaN in dense/kernel' } };
  expect(await call('POST', `${first.ticket.id}/complete`, first.ticket)).toEqual({
    status: 200,
    body: { accepted: false, reason: { code: 'update_rejected', message: 'NaN in dense/kernel' } },
  });
  const second = await issue(await headerOf(bytes));
  await put(second.ticket, bytes, 0);
  assignments.failures.set('submitUpdate', new OctomilError('internal', 'for a moment'));
  expect((await call('POST', `${second.ticket.id}/complete`, second.ticket)).status).toBe(500);
  expect((await call('GET', second.ticket.id, second.ticket)).body['received_parts']).toEqual([0]);
  assignments.failures.set('submitUpdate', new OctomilError('round_closed', 'the round is over'));
  expect((await call('POST', `${second.ticket.id}/complete`, second.ticket)).body['code']).toBe('round_closed');
  expect((await call('GET', second.ticket.id, second.ticket)).body['code']).toBe('round_closed');
});

test('a ticket works with its own token, for its own device, until it expires', async () => {
  const bytes = randomBytes(1000);
  const header = await headerOf(bytes);
  const { ticket } = await issue(header);
  const stranger = await newDevice();
  expect((await call('PUT', `${ticket.id}/parts/0`, ticket, bytes, stranger.credential)).body['code']).toBe(
    'ticket_invalid',
  );
  expect((await call('PUT', `${ticket.id}/parts/0`, { token: 'wrong' }, bytes)).body['code']).toBe('ticket_invalid');
  expect((await call('PUT', `${randomUUID()}/parts/0`, ticket, bytes)).body['code']).toBe('ticket_invalid');
  expect((await call('PUT', `${ticket.id}/parts/0`, ticket, bytes, 'edg_key.admin')).status).toBe(403);
  await database.kysely
    .updateTable('upload_tickets')
    .set({ expires_at: new Date(Date.now() - 1000) })
    .where('id', '=', ticket.id)
    .execute();
  expect(await call('PUT', `${ticket.id}/parts/0`, ticket, bytes)).toMatchObject({
    status: 410,
    body: { code: 'ticket_expired' },
  });
  // Asked for again, it lives on under a new token.
  const again = await issue(header);
  expect(again.ticket.id).toBe(ticket.id);
  expect((await put(again.ticket, bytes, 0)).status).toBe(200);
  // Other bytes for the same assignment take its place.
  const other = randomBytes(1000);
  await issue({ ...header, sha256: digest(other) });
  expect((await put(again.ticket, bytes, 0)).body['code']).toBe('ticket_expired');
});

test('what the header check refuses gets no ticket, and neither does what is too large', async () => {
  const header = await headerOf(randomBytes(10));
  await expect(transfers.issueTicket(device.deviceId, { ...header, sizeBytes: 5 * 1024 ** 3 })).rejects.toMatchObject({
    code: 'too_large',
  });
  await expect(transfers.issueTicket(device.deviceId, { ...header, sizeBytes: 0 })).rejects.toMatchObject({
    code: 'invalid_input',
  });
  assignments.failures.set('checkHeader', new OctomilError('round_closed', 'the round is over'));
  await expect(transfers.issueTicket(device.deviceId, header)).rejects.toMatchObject({ code: 'round_closed' });
});

test('a start removes what belongs to no open ticket', async () => {
  const bytes = randomBytes(SIZE);
  const { ticket } = await issue(await headerOf(bytes));
  await put(ticket, bytes, 0);
  await transfers.stop();
  const orphan = randomUUID();
  await writeFile(join(folder, 'staging', '0', `${orphan}.data`), 'x');
  transfers = newTransfers();
  await transfers.start();
  const names = await readdir(join(folder, 'staging', '0'));
  expect(names.filter((name) => name.includes(orphan))).toEqual([]);
  expect(names).toContain(`${ticket.id}.data`);
});

test('two processes on one staging root take a slot each', async () => {
  const other = newTransfers();
  await other.start();
  expect(await readdir(join(folder, 'staging'))).toEqual(['0', '1']);
  await other.stop();
});

test('killed after the file was handed over: what was counted answers its verdict, otherwise the parts are sent again', async () => {
  const bytes = randomBytes(SIZE);
  const header = await headerOf(bytes);
  const { ticket } = await issue(header);
  for (const index of [0, 1, 2]) await put(ticket, bytes, index);
  await transfers.stop();
  // The object store has renamed the file away; its list is still here.
  await rm(join(folder, 'staging', '0', `${ticket.id}.data`));
  transfers = newTransfers();
  await transfers.start();
  const again = await issue(header);
  expect([again.ticket.id, again.receivedParts]).toEqual([ticket.id, []]);
  const proof = { ticketId: ticket.id, token: again.ticket.token, deviceId: device.deviceId };
  await expect(transfers.complete(proof)).rejects.toMatchObject({ code: 'transfer_incomplete' });
  assignments.failures.set('checkHeader', new OctomilError('round_closed', 'the round is over'));
  assignments.earlierVerdicts.set(header.sha256, { accepted: true });
  expect(await transfers.complete(proof)).toEqual({ accepted: true });
  expect(await transfers.complete(proof)).toEqual({ accepted: true });
  expect(await transfers.issueTicket(device.deviceId, header)).toEqual({ verdict: { accepted: true } });
  expect(assignments.updates).toEqual([]);
});

test('parts that reached several coordinators are put together by the one that completes', async () => {
  const bytes = randomBytes(SIZE);
  const header = await headerOf(bytes);
  const other = newTransfers();
  await other.start();
  const { ticket } = await issue(header);
  const proof = { ticketId: ticket.id, token: ticket.token, deviceId: device.deviceId };
  async function* body(index: number) {
    yield part(bytes, index);
  }
  await transfers.putPart(proof, 0, body(0), PART);
  await other.putPart(proof, 1, body(1), PART);
  await expect(transfers.complete(proof)).rejects.toMatchObject({ details: { missingParts: [2] } });
  await other.putPart(proof, 2, body(2), SIZE - 2 * PART);
  // One of them dies; its bytes do not.
  await other.stop();
  const again = await issue(header);
  expect(again.receivedParts).toEqual([0, 1, 2]);
  expect(await transfers.complete({ ...proof, token: again.ticket.token })).toEqual({ accepted: true });
  expect(assignments.updates).toMatchObject([{ sha256: header.sha256 }]);
});

test('a base is served whole, by ranges, and only to the device it is meant for', async () => {
  const bytes = randomBytes(3 * MIB + 17);
  const sha256 = digest(bytes);
  const path = join(folder, 'base');
  await writeFile(path, bytes);
  assignments.objects.set(sha256, { objectKey: path, sizeBytes: bytes.length, deviceId: device.deviceId });
  const get = (headers: Record<string, string>, credential = device.credential) =>
    fetch(`${url}/api/v1/transfers/objects/${sha256}`, {
      headers: { authorization: `Bearer ${credential}`, ...headers },
    });
  const whole = await get({});
  expect([whole.status, whole.headers.get('etag'), whole.headers.get('content-length')]).toEqual([
    200,
    `"${sha256}"`,
    String(bytes.length),
  ]);
  expect(Buffer.from(await whole.arrayBuffer()).equals(bytes)).toBe(true);
  const rest = await get({ range: `bytes=${MIB + 1}-` });
  expect([rest.status, rest.headers.get('content-range')]).toEqual([
    206,
    `bytes ${MIB + 1}-${bytes.length - 1}/${bytes.length}`,
  ]);
  expect(Buffer.from(await rest.arrayBuffer()).equals(bytes.subarray(MIB + 1))).toBe(true);
  const changed = await get({ range: 'bytes=5-', 'if-range': '"other"' });
  expect(changed.status).toBe(200);
  await changed.arrayBuffer();
  const beyond = await get({ range: `bytes=${bytes.length}-` });
  expect([beyond.status, beyond.headers.get('content-range')]).toEqual([416, `bytes */${bytes.length}`]);
  await beyond.arrayBuffer();
  const foreign = await get({}, (await newDevice()).credential);
  expect([foreign.status, ((await foreign.json()) as { code: string }).code]).toEqual([404, 'not_found']);
});

test('a download that is broken off does no harm', async () => {
  const bytes = randomBytes(20 * MIB);
  const sha256 = digest(bytes);
  const path = join(folder, 'base');
  await writeFile(path, bytes);
  assignments.objects.set(sha256, { objectKey: path, sizeBytes: bytes.length, deviceId: device.deviceId });
  const abort = new AbortController();
  const response = await fetch(`${url}/api/v1/transfers/objects/${sha256}`, {
    headers: { authorization: `Bearer ${device.credential}` },
    signal: abort.signal,
  });
  await response.body?.getReader().read();
  abort.abort();
  const again = await fetch(`${url}/api/v1/transfers/objects/${sha256}`, {
    headers: { authorization: `Bearer ${device.credential}` },
  });
  expect(digest(Buffer.from(await again.arrayBuffer()))).toBe(sha256);
  expect((app.server.address() as AddressInfo).port).toBeGreaterThan(0);
  expect(errors).toEqual([]);
});

test.each([3 * MIB, 20 * MIB])(
  'a stored file of %i bytes that was cut short ends the connection, and the log names it',
  async (sizeBytes) => {
    const sha256 = digest(randomBytes(32));
    const path = join(folder, 'base');
    await writeFile(path, randomBytes(sizeBytes - 1));
    assignments.objects.set(sha256, { objectKey: path, sizeBytes, deviceId: device.deviceId });
    const download = fetch(`${url}/api/v1/transfers/objects/${sha256}`, {
      headers: { authorization: `Bearer ${device.credential}` },
      signal: AbortSignal.timeout(10_000),
    }).then((response) => response.arrayBuffer());
    await expect(download).rejects.toThrow(/terminated|fetch failed/);
    expect(errors).toEqual([
      [
        expect.objectContaining({ objectKey: path, error: expect.objectContaining({ code: 'corrupt_file' }) }),
        expect.stringMatching(/could not be sent/),
      ],
    ]);
  },
);
