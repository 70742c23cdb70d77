import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { connect as connectHttp2 } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, makeClientConstructor, type ServiceError } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import {
  AgentService,
  BULK_CODECS,
  connectService,
  type DownloadModelResponse,
  type EnrollResponse,
  type UpdateHeader,
  type UploadUpdateResponse,
} from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import { service as healthService } from 'grpc-health-check';
import { createAuditLog } from '../audit/index.js';
import type { Database } from '../database/database.js';
import { createDeviceService, type DeviceService } from '../devices/index.js';
import type { DesiredListener } from '../rollouts/index.js';
import { insertAssignment, insertEnrollmentToken, insertOrganization } from '../testing/enrolled-device.js';
import { FakeAssignmentPort } from '../testing/fake-assignment-port.js';
import { openTestDatabase } from '../testing/index.js';
import { NO_ROLLOUTS } from '../testing/no-rollouts.js';
import { type AgentClient, bearer, errorOf, SessionPeer } from '../testing/session-peer.js';
import { createTransferService, type TransferService } from '../transfers/index.js';
import type { DeviceSession } from './device-session.js';
import { createGrpcServer, type GrpcServer } from './index.js';

const MIB = 1024 * 1024;

let database: Database;
let folder: string;
let organizationId: string;
let devices: DeviceService;
let assignments: FakeAssignmentPort;
let transfers: TransferService;
let server: GrpcServer;
let client: AgentClient;
/** Sessions that are told what their devices should run. */
let listeners: DesiredListener[];

beforeAll(async () => {
  database = await openTestDatabase();
  organizationId = await insertOrganization(database);
});

afterAll(() => database.close());

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-grpc-'));
  assignments = new FakeAssignmentPort();
  devices = createDeviceService({ database, clock: systemClock, logger: silentLogger, coordinatorId: randomUUID() });
  transfers = createTransferService({
    database,
    assignments,
    rollouts: NO_ROLLOUTS,
    hub: devices.hub,
    clock: systemClock,
    logger: silentLogger,
    // Only what a download asks of a store: where the object lies.
    objects: { localFile: async (key: string) => ({ path: key, release: async () => undefined }) } as ObjectStore,
    settings: { stagingRoot: join(folder, 'staging'), partSizeBytes: 5 * MIB },
  });
  listeners = [];
  server = createGrpcServer({
    devices,
    assignments,
    desired: { ...NO_ROLLOUTS, opened: (listener) => listeners.push(listener) },
    transfers,
    audit: createAuditLog({ database }),
    clock: systemClock,
    logger: silentLogger,
    settings: {
      host: '127.0.0.1',
      port: 0,
      transferUrl: () => 'http://127.0.0.1:8000',
      coordinatorVersion: '0.1.0',
      stopWithinMs: 200,
    },
  });
  await devices.start();
  await transfers.start();
  await server.start();
  client = connectService(AgentService, server.address, credentials.createInsecure(), {}, BULK_CODECS);
});

afterEach(async () => {
  client.close();
  await server.stop();
  await transfers.stop();
  await devices.stop();
  await rm(folder, { recursive: true, force: true });
});

function enroll(enrollmentToken: string, deviceIdentifier: string): Promise<EnrollResponse> {
  return new Promise((resolve, reject) => {
    client.enroll({ enrollmentToken, deviceIdentifier }, bearer('none'), {}, (error, response) => {
      if (error !== null || response === undefined) reject(error === null ? error : errorOf(error));
      else resolve(response);
    });
  });
}

async function newDevice(): Promise<EnrollResponse> {
  return enroll(await insertEnrollmentToken(database, organizationId), `device-${randomUUID()}`);
}

function header(
  assignmentId: string,
  bytes: Uint8Array,
  attempt = 1,
): Omit<UpdateHeader, '$typeName' | 'assignment'> & { assignment: { assignmentId: string; attempt: number } } {
  return {
    assignment: { assignmentId, attempt },
    format: 'delta',
    sizeBytes: BigInt(bytes.length),
    sha256: createHash('sha256').update(bytes).digest('hex'),
    sampleCount: 10n,
    metricsJson: '{"trainLoss":0.5}',
  };
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (error: unknown) => (error instanceof OctomilError ? error.code : String(error)),
  );
}

test('a token enrols one device once, and says when and by whom it was used', async () => {
  const token = await insertEnrollmentToken(database, organizationId, { labels: { site: 'north' } });
  const device = await enroll(token, 'hospital-001');
  expect(device.organizationId).toBe(organizationId);
  expect(device.credential).toMatch(/^odc_[0-9a-f]{32}_[A-Za-z0-9_-]{43}$/);
  const [written] = await createAuditLog({ database }).list(organizationId, { limit: 1 });
  expect(written).toMatchObject({
    actor: `device:${device.deviceId}`,
    action: 'grpc.Enroll',
    resource: `devices/${device.deviceId}`,
    remote_address: '127.0.0.1',
  });
  const again = await enroll(token, 'hospital-002').catch((error: unknown) => error);
  expect(again).toMatchObject({ code: 'enrollment_token_used' });
  expect((again as OctomilError).reason).toContain('hospital-001');
  expect((again as OctomilError).details?.['usedAt']).toMatch(/^\d{4}-/);
  const row = await database.kysely
    .selectFrom('devices')
    .selectAll()
    .where('id', '=', device.deviceId)
    .executeTakeFirstOrThrow();
  expect(row.labels).toEqual({ site: 'north' });
  expect(JSON.stringify(row)).not.toContain(device.credential.slice(38));
});

test('two agents racing with one token: one gets in', async () => {
  const token = await insertEnrollmentToken(database, organizationId);
  const codes = await Promise.all([codeOf(enroll(token, 'racer-1')), codeOf(enroll(token, 'racer-2'))]);
  expect(codes.sort()).toEqual(['enrollment_token_used', 'none']);
});

test('an expired, an unknown and a malformed token are refused, and so is a bad identifier', async () => {
  const expired = await insertEnrollmentToken(database, organizationId, { expiresInMs: -1000 });
  const refused = await enroll(expired, 'late').catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: 'enrollment_token_invalid', reason: expect.stringContaining('expired at') });
  expect(await codeOf(enroll(`oet_${randomBytes(32).toString('base64url')}`, 'x'))).toBe('enrollment_token_invalid');
  expect(await codeOf(enroll('nonsense', 'x'))).toBe('enrollment_token_invalid');
  const fresh = await insertEnrollmentToken(database, organizationId);
  expect(await codeOf(enroll(fresh, 'with space'))).toBe('invalid_input');
  expect(await codeOf(enroll(fresh, 'without-space'))).toBe('none');
});

test('enrolling an identifier again keeps the device, replaces its credential and ends its session', async () => {
  const first = await enroll(await insertEnrollmentToken(database, organizationId), 'moved');
  const peer = new SessionPeer(client, first.credential);
  await peer.hello('process-a');
  const second = await enroll(
    await insertEnrollmentToken(database, organizationId, { deviceIdentifier: 'moved' }),
    'moved',
  );
  expect(second.deviceId).toBe(first.deviceId);
  expect((await peer.next('superseded')).reason?.code).toBe('superseded');
  expect(await codeOf(new SessionPeer(client, first.credential).hello('process-a'))).toBe('authentication_failed');
  const renewed = new SessionPeer(client, second.credential);
  await renewed.hello('process-b');
  await renewed.close();
});

test('NUL in what a device says of itself is left out, in its enrolment and in its hello', async () => {
  const token = await insertEnrollmentToken(database, organizationId);
  const device = await enroll(token, 'nu\0l');
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a', { hostName: 'ward\0-7', site: { labels: { 're\0gion': 'nor\0th' } } });
  const row = await database.kysely
    .selectFrom('devices')
    .selectAll()
    .where('id', '=', device.deviceId)
    .executeTakeFirstOrThrow();
  expect(row).toMatchObject({ device_identifier: 'nul', session_host: 'ward-7', labels: { region: 'north' } });
  await peer.close();
});

test('hello is answered by a welcome, epochs go up, and the device is online until its stream ends', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  const welcome = await peer.hello('process-a');
  expect(welcome).toMatchObject({
    epoch: 1n,
    deviceId: device.deviceId,
    leaseMs: 15_000,
    renewEveryMs: 5000,
    inlineUpdateMaxBytes: BigInt(4 * MIB),
    transferUrl: 'http://127.0.0.1:8000',
  });
  peer.say({ case: 'leaseRenewal', value: {} });
  expect((await peer.next('leaseRenewed')).leaseMs).toBe(15_000);
  const row = () =>
    database.kysely.selectFrom('devices').selectAll().where('id', '=', device.deviceId).executeTakeFirstOrThrow();
  expect(await row()).toMatchObject({ session_process_id: 'process-a', session_host: 'host-1' });
  await peer.close();
  await server.stop();
  expect(await row()).toMatchObject({ session_process_id: null, lease_until: null, session_epoch: 1 });
});

test('a second process with the same credential is refused by name while the first one lives', async () => {
  const device = await newDevice();
  const first = new SessionPeer(client, device.credential);
  await first.hello('process-a', { hostName: 'ward-7' });
  const copy = await new SessionPeer(client, device.credential).hello('process-b').catch((error: unknown) => error);
  expect(copy).toMatchObject({
    code: 'credential_in_use',
    reason: expect.stringMatching(/ward-7 since \d{4}-.*revoke/),
  });
  first.say({ case: 'leaseRenewal', value: {} });
  await first.next('leaseRenewed');
  // Once its lease has run out, whoever holds the credential may go on.
  await database.kysely
    .updateTable('devices')
    .set({ lease_until: new Date(Date.now() - 1000) })
    .where('id', '=', device.deviceId)
    .execute();
  const next = new SessionPeer(client, device.credential);
  expect((await next.hello('process-b')).epoch).toBe(2n);
  expect((await first.next('superseded')).reason?.code).toBe('superseded');
  await next.close();
});

test('the same process reconnecting takes the place of its older stream', async () => {
  const device = await newDevice();
  const before = new SessionPeer(client, device.credential);
  await before.hello('process-a');
  const after = new SessionPeer(client, device.credential);
  expect((await after.hello('process-a')).epoch).toBe(2n);
  await before.next('superseded');
  expect(await before.over).toBeUndefined();
  after.say({ case: 'leaseRenewal', value: {} });
  await after.next('leaseRenewed');
  await after.close();
});

test('of two streams of a process that open at once, the one with the newer epoch stays, whichever is ready first', async () => {
  const device = await newDevice();
  const [taken, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const openSession = devices.openSession;
  devices.openSession = async (deviceId, hello) => {
    const epoch = await openSession(deviceId, hello);
    taken.resolve();
    if (epoch === 1) await goOn.promise;
    return epoch;
  };
  const older = new SessionPeer(client, device.credential);
  const refused = codeOf(older.hello('process-a'));
  await taken.promise;
  const newer = new SessionPeer(client, device.credential);
  expect((await newer.hello('process-a')).epoch).toBe(2n);
  goOn.resolve();
  const { reason } = await older.next('superseded');
  expect(JSON.parse(reason?.detailsJson ?? '')).toEqual({ epoch: 1, current: 2 });
  expect(await refused).toBe('unknown');
  expect(listeners.map((listener) => (listener as DeviceSession).epoch)).toEqual([2]);
  newer.say({ case: 'leaseRenewal', value: {} });
  await newer.next('leaseRenewed');
  await newer.close();
});

test('a message of an older epoch is answered superseded', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  peer.epoch = 0n;
  peer.say({ case: 'leaseRenewal', value: {} });
  const { reason } = await peer.next('superseded');
  expect(JSON.parse(reason?.detailsJson ?? '')).toEqual({ epoch: 0, current: 1 });
  expect(await peer.over).toBeUndefined();
});

test('a lease taken over by another coordinator ends the session at its next renewal', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  await database.kysely.updateTable('devices').set({ session_epoch: 9 }).where('id', '=', device.deviceId).execute();
  peer.say({ case: 'leaseRenewal', value: {} });
  expect((await peer.next('superseded')).reason?.code).toBe('superseded');
});

test('a revoked device loses its session at once and gets no other', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  await devices.revoke(organizationId, device.deviceId);
  expect(await peer.over).toMatchObject({ code: 'device_revoked' });
  expect(await codeOf(new SessionPeer(client, device.credential).hello('process-a'))).toBe('device_revoked');
  expect(await codeOf(devices.revoke(await insertOrganization(database), device.deviceId))).toBe(
    'device_not_registered',
  );
});

test('a session needs a credential and begins with hello', async () => {
  expect(await codeOf(new SessionPeer(client, 'edg_something').hello('p'))).toBe('authentication_failed');
  const device = await newDevice();
  const other = device.credential.slice(0, -3) + (device.credential.endsWith('AAA') ? 'BBB' : 'AAA');
  expect(await codeOf(new SessionPeer(client, other).hello('p'))).toBe('authentication_failed');
  const early = new SessionPeer(client, device.credential);
  early.say({ case: 'leaseRenewal', value: {} });
  expect(await early.over).toMatchObject({ code: 'invalid_input' });
});

test('an assignment is pushed when it appears, until acknowledged, and again to an agent that reconnects', async () => {
  const device = await newDevice();
  const first = new SessionPeer(client, device.credential);
  await first.hello('process-a');
  assignments.offer(device.deviceId, 'assignment-1');
  devices.push.notifyDevices([device.deviceId]);
  expect((await first.next('assignment')).ref?.assignmentId).toBe('assignment-1');
  await first.close();

  const second = new SessionPeer(client, device.credential);
  await second.hello('process-a');
  await second.next('assignment');
  second.say({
    case: 'assignmentAnswer',
    value: { assignment: { assignmentId: 'assignment-1', attempt: 1 }, answer: { case: 'accepted', value: {} } },
  });
  second.say({ case: 'leaseRenewal', value: {} });
  await second.next('leaseRenewed');
  devices.push.notifyDevices([device.deviceId]);
  // The answer to a faulty message comes after what the look before it had to say.
  second.say({ case: 'assignmentFailure', value: {} });
  await second.next('problemNotice');
  expect(second.pending('assignment')).toBe(0);
  expect(assignments.named('accept')).toHaveLength(1);
  await second.close();

  const third = new SessionPeer(client, device.credential);
  await third.hello('process-a', { inProgress: [{ assignmentId: 'assignment-1', attempt: 1 }] });
  third.say({ case: 'assignmentFailure', value: {} });
  await third.next('problemNotice');
  expect(third.pending('assignment')).toBe(0);
  await third.close();
});

test('an assignment that was called off is cancelled with its reason', async () => {
  const device = await newDevice();
  assignments.offer(device.deviceId, 'assignment-1');
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  await peer.next('assignment');
  assignments.open.delete(device.deviceId);
  assignments.calledOff = [
    { key: { assignmentId: 'assignment-1', attempt: 1 }, reason: { code: 'round_closed', message: 'enough updates' } },
  ];
  devices.push.notifyDevices([device.deviceId]);
  const cancelled = await peer.next('assignmentCancelled');
  expect(cancelled.assignment?.assignmentId).toBe('assignment-1');
  expect(cancelled.reason).toMatchObject({ code: 'round_closed', message: 'enough updates' });
  await peer.close();
});

test('a notification through the database wakes the session as well', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  assignments.offer(device.deviceId, 'assignment-2');
  await database.notify('octomil_assignments', device.deviceId);
  expect((await peer.next('assignment')).ref?.assignmentId).toBe('assignment-2');
  await peer.close();
});

test('an inline update is handed over whole and its verdict comes back; renewals do not wait for it', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  const bytes = randomBytes(3 * MIB);
  let release = (): void => undefined;
  assignments.gate = new Promise((resolve) => {
    release = resolve;
  });
  peer.say({ case: 'inlineUpdate', value: { header: header('assignment-1', bytes), data: bytes } });
  peer.say({ case: 'leaseRenewal', value: {} });
  await peer.next('leaseRenewed');
  expect(assignments.updates).toHaveLength(0);
  release();
  const verdict = await peer.next('updateVerdict');
  expect(verdict.verdict.case).toBe('accepted');
  expect(assignments.updates).toMatchObject([
    {
      deviceId: device.deviceId,
      sha256: header('', bytes).sha256,
      header: { sampleCount: 10, metrics: { trainLoss: 0.5 } },
    },
  ]);
  await peer.close();
});

test('what an update breaks is told: rejection, wrong size, closed round, bad header', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  const bytes = randomBytes(100);
  assignments.verdict = { accepted: false, reason: { code: 'update_rejected', message: 'NaN in dense/kernel' } };
  peer.say({ case: 'inlineUpdate', value: { header: header('a', bytes), data: bytes } });
  expect((await peer.next('updateVerdict')).verdict).toMatchObject({
    case: 'rejected',
    value: { message: 'NaN in dense/kernel' },
  });
  peer.say({ case: 'inlineUpdate', value: { header: { ...header('b', bytes), sizeBytes: 99n }, data: bytes } });
  expect((await peer.next('updateVerdict')).verdict).toMatchObject({
    case: 'rejected',
    value: { code: 'update_rejected' },
  });
  assignments.failures.set('submitUpdate', new OctomilError('round_closed', 'the round is over'));
  peer.say({ case: 'inlineUpdate', value: { header: header('c', bytes), data: bytes } });
  expect((await peer.next('updateVerdict')).verdict).toMatchObject({
    case: 'rejected',
    value: { code: 'round_closed' },
  });
  assignments.failures.set('submitUpdate', new OctomilError('internal', 'the database went away'));
  peer.say({ case: 'inlineUpdate', value: { header: header('d', bytes), data: bytes } });
  expect((await peer.next('problemNotice')).problem?.code).toBe('internal');
  peer.say({ case: 'inlineUpdate', value: { header: { ...header('e', bytes), format: 'zip' }, data: bytes } });
  expect((await peer.next('updateVerdict')).verdict).toMatchObject({
    case: 'rejected',
    value: { code: 'invalid_input' },
  });
  await peer.close();
});

test('reports, failures, refusals and progress reach the engine', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  const assignment = { assignmentId: 'a', attempt: 1 };
  for (let step = 1; step <= 50; step++) {
    peer.say({ case: 'progress', value: { assignment, phase: 'train', completed: BigInt(step), total: 50n } });
  }
  peer.say({ case: 'report', value: { assignment, json: '{"rows":100}' } });
  expect((await peer.next('updateVerdict')).verdict.case).toBe('accepted');
  expect(assignments.named('report')).toMatchObject([{ value: { rows: 100 } }]);
  // The first and the last of the phase: those in between came within a second.
  expect(assignments.named('progress').map(({ value }) => (value as { completed: number }).completed)).toEqual([1, 50]);
  peer.say({
    case: 'assignmentAnswer',
    value: {
      assignment: { assignmentId: 'b', attempt: 1 },
      answer: {
        case: 'refused',
        value: { code: 'policy_denied', message: 'no rule allows it', detailsJson: '{"rule":"none"}' },
      },
    },
  });
  peer.say({
    case: 'assignmentFailure',
    value: {
      assignment: { assignmentId: 'c', attempt: 2 },
      problem: { code: 'training_failed', message: 'out of memory' },
    },
  });
  peer.say({ case: 'report', value: { assignment: { assignmentId: 'd', attempt: 1 }, json: 'nonsense' } });
  expect((await peer.next('updateVerdict')).verdict).toMatchObject({
    case: 'rejected',
    value: { code: 'invalid_input' },
  });
  expect(assignments.named('refuse')).toMatchObject([{ value: { code: 'policy_denied', details: { rule: 'none' } } }]);
  expect(assignments.named('fail')).toMatchObject([
    { key: { assignmentId: 'c', attempt: 2 }, value: { code: 'training_failed' } },
  ]);
  assignments.failures.set('progress', new OctomilError('superseded', 'attempt 1 is over'));
  peer.say({ case: 'progress', value: { assignment: { assignmentId: 'e', attempt: 1 }, phase: 'load' } });
  expect((await peer.next('assignmentCancelled')).reason?.code).toBe('superseded');
  await peer.close();
});

test('the answer to a renewal is the receipt of what was said before it', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  let release = (): void => undefined;
  assignments.reportGate = new Promise((resolve) => {
    release = resolve;
  });
  peer.say({ case: 'report', value: { assignment: { assignmentId: 'a', attempt: 1 }, json: '{}' } });
  peer.say({ case: 'leaseRenewal', value: {} });
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(peer.pending('leaseRenewed')).toBe(0);
  release();
  await peer.next('leaseRenewed');
  expect(assignments.named('report')).toHaveLength(1);
  await peer.close();
});

test('a report that cannot be kept now ends the session, so that it is given again', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  assignments.failures.set('report', new OctomilError('internal', 'the database went away'));
  peer.say({ case: 'report', value: { assignment: { assignmentId: 'a', attempt: 1 }, json: '{}' } });
  expect(await peer.over).toMatchObject({ code: 'internal' });
});

test('an unknown event of a newer agent is passed over', async () => {
  const device = await newDevice();
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  peer.say({ case: undefined } as never);
  peer.say({ case: 'leaseRenewal', value: {} });
  await peer.next('leaseRenewed');
  await peer.close();
});

async function upload(
  credential: string,
  ticket: { ticketId: string; token: string },
  chunks: { offset: number; data: Uint8Array }[],
): Promise<bigint> {
  return new Promise((resolve, reject) => {
    const call = client.uploadUpdate(
      bearer(credential),
      (error: ServiceError | null, response?: UploadUpdateResponse) => {
        if (error !== null) reject(errorOf(error));
        else resolve(response?.receivedBytes ?? -1n);
      },
    );
    // A refused upload breaks the stream under what is still being written.
    call.on('error', () => undefined);
    const write = call.write.bind(call) as (message: unknown) => boolean;
    write({ content: { case: 'header', value: ticket } });
    for (const { offset, data } of chunks)
      write({ content: { case: 'chunk', value: { offset: BigInt(offset), data } } });
    call.end();
  });
}

test('a large update streams under its ticket, goes on after a cut, and is completed', async () => {
  const device = await newDevice();
  const assignmentId = await insertAssignment(database, organizationId, device.deviceId);
  const peer = new SessionPeer(client, device.credential);
  await peer.hello('process-a');
  const bytes = randomBytes(12 * MIB);
  peer.say({ case: 'ticketRequest', value: { header: header(assignmentId, bytes) } });
  const ticket = await peer.next('uploadTicket');
  expect(ticket).toMatchObject({ partCount: 3, partSizeBytes: BigInt(5 * MIB), receivedParts: [] });
  const chunks = Array.from({ length: 12 }, (_, index) => ({
    offset: index * MIB,
    data: bytes.subarray(index * MIB, (index + 1) * MIB),
  }));
  // The first part and some of the second: what is not whole does not count.
  expect(await upload(device.credential, ticket, chunks.slice(0, 7))).toBe(BigInt(5 * MIB));
  peer.say({ case: 'ticketRequest', value: { header: header(assignmentId, bytes) } });
  const again = await peer.next('uploadTicket');
  expect(again).toMatchObject({ ticketId: ticket.ticketId, receivedParts: [0] });
  expect(await codeOf(upload(device.credential, ticket, chunks.slice(5)))).toBe('ticket_invalid');
  const stranger = await newDevice();
  expect(await codeOf(upload(stranger.credential, again, chunks.slice(5)))).toBe('ticket_invalid');
  expect(await codeOf(upload(device.credential, again, chunks.slice(6)))).toBe('invalid_input');
  expect(await upload(device.credential, again, chunks.slice(5))).toBe(BigInt(12 * MIB));
  expect((await peer.next('updateVerdict')).verdict.case).toBe('accepted');
  expect(assignments.updates).toMatchObject([{ sha256: header('', bytes).sha256 }]);
  // An agent that lost the verdict asks for the ticket again.
  peer.say({ case: 'ticketRequest', value: { header: header(assignmentId, bytes) } });
  expect((await peer.next('updateVerdict')).verdict.case).toBe('accepted');
  expect(assignments.updates).toHaveLength(1);
  await peer.close();
});

test('a base streams from an offset to the device that has an assignment for it', async () => {
  const device = await newDevice();
  const bytes = randomBytes(3 * MIB + 17);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const path = join(folder, 'base');
  await writeFile(path, bytes);
  assignments.objects.set(sha256, { objectKey: path, sizeBytes: bytes.length, deviceId: device.deviceId });
  const download = async (credential: string, offset: number): Promise<Buffer> => {
    const parts: Buffer[] = [];
    const call = client.downloadModel({ model: { sha256 }, offset: BigInt(offset) }, bearer(credential));
    try {
      for await (const chunk of call as AsyncIterable<DownloadModelResponse>) {
        expect(Number(chunk.offset)).toBe(offset + parts.reduce((sum, { length }) => sum + length, 0));
        parts.push(Buffer.from(chunk.data));
      }
    } catch (error) {
      throw errorOf(error as ServiceError);
    }
    return Buffer.concat(parts);
  };
  expect((await download(device.credential, 0)).equals(bytes)).toBe(true);
  expect((await download(device.credential, 2 * MIB + 3)).equals(bytes.subarray(2 * MIB + 3))).toBe(true);
  expect(await download(device.credential, bytes.length)).toHaveLength(0);
  expect(await codeOf(download(device.credential, bytes.length + 1))).toBe('invalid_input');
  expect(await codeOf(download((await newDevice()).credential, 0))).toBe('not_found');
});

test('the standard health service answers', async () => {
  const Health = makeClientConstructor(healthService, 'grpc.health.v1.Health');
  const health = new Health(server.address, credentials.createInsecure());
  const check = (service: string): Promise<unknown> =>
    new Promise((resolve, reject) => {
      health['check']?.({ service }, (error: unknown, response: unknown) =>
        error === null ? resolve(response) : reject(error),
      );
    });
  expect(await check('')).toEqual({ status: 'SERVING' });
  expect(await check('octomil.v1.AgentService')).toEqual({ status: 'SERVING' });
  health.close();
});

test('a download ends when its device is revoked', async () => {
  const device = await newDevice();
  const path = join(folder, 'large');
  const sizeBytes = 64 * MIB;
  await writeFile(path, '');
  await truncate(path, sizeBytes);
  const sha256 = 'a'.repeat(64);
  assignments.objects.set(sha256, { objectKey: path, sizeBytes, deviceId: device.deviceId });
  const call = client.downloadModel({ model: { sha256 }, offset: 0n }, bearer(device.credential));
  let received = 0;
  const whole = (async () => {
    for await (const { data } of call as AsyncIterable<DownloadModelResponse>) {
      if (received === 0) await devices.revoke(organizationId, device.deviceId);
      received += data.length;
    }
  })();
  const error = await whole.catch((thrown: unknown) => errorOf(thrown as ServiceError));
  expect(error).toMatchObject({ code: 'device_revoked' });
  expect(received).toBeLessThan(sizeBytes);
});

test('clients are granted wide receive windows, which grpc-js leaves at 64 KiB', async () => {
  const session = connectHttp2(`http://${server.address}`);
  const granted = await new Promise<{ stream: number | undefined; connection: number | undefined }>(
    (resolve, reject) => {
      session.on('error', reject);
      session.on('remoteSettings', ({ initialWindowSize }) => {
        // The connection's window follows in a frame of its own; an answered ping proves that it arrived.
        session.ping(() => resolve({ stream: initialWindowSize, connection: session.state.remoteWindowSize }));
      });
    },
  );
  session.destroy();
  expect(granted).toEqual({ stream: 8 * MIB, connection: 8 * MIB });
});

test('plaintext is refused off loopback, and a port in use is named', async () => {
  const settings = { host: '0.0.0.0', port: 0, transferUrl: () => '', coordinatorVersion: '' };
  const base = { devices, assignments, desired: NO_ROLLOUTS, transfers, clock: systemClock, logger: silentLogger };
  expect(await codeOf(createGrpcServer({ ...base, settings }).start())).toBe('config_invalid');
  const port = Number(server.address.split(':')[1]);
  expect(await codeOf(createGrpcServer({ ...base, settings: { ...settings, host: '127.0.0.1', port } }).start())).toBe(
    'port_in_use',
  );
});
