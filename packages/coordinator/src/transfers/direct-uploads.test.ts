import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, silentLogger, systemClock } from '@octomil/shared/runtime';
import { type ObjectStore, openObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { createDeviceService } from '../devices/index.js';
import { insertAssignment, insertEnrollmentToken, insertOrganization } from '../testing/enrolled-device.js';
import { FakeAssignmentPort } from '../testing/fake-assignment-port.js';
import { openTestDatabase } from '../testing/index.js';
import { NO_ROLLOUTS } from '../testing/no-rollouts.js';
import { createTransferService, type TransferService, type TransferServiceOptions } from './index.js';

const PART = 5 * 1024 * 1024;
const SIZE = PART + 4321;
const LEASE_MS = 600;

for (const variable of ['TEST_S3_URL', 'TEST_GCS_URL', 'TEST_AZURE_URL']) {
  const url = process.env[variable];
  if (url === undefined) {
    test.skip(`updates straight to the bucket: ${variable} is not set; run through scripts/with-clouds.js`, () =>
      undefined);
    continue;
  }
  const server = process.env[variable.replace('_URL', '_SERVER')];
  if (server === 's3rver') {
    test.skip(`updates straight to the bucket of ${variable}: s3rver answers ListParts with 405`, () => undefined);
    continue;
  }
  describe(`updates straight to the bucket of ${variable}`, () => {
    let folder: string;
    let database: Database;
    let organizationId: string;
    let objects: ObjectStore & { close(): Promise<void> };
    let assignments: FakeAssignmentPort;
    let transfers: TransferService;
    let newTransfers: (overrides?: Partial<TransferServiceOptions>) => TransferService;
    let deviceId: string;

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'octomil-direct-'));
      database = await openTestDatabase();
      organizationId = await insertOrganization(database);
      objects = await openObjectStore(`${url}/${randomUUID()}`, {
        environment: process.env,
        temporaryFolder: join(folder, 'copies'),
        clock: systemClock,
      });
      const devices = createDeviceService({
        database,
        clock: systemClock,
        logger: silentLogger,
        coordinatorId: randomUUID(),
      });
      const enrollmentToken = await insertEnrollmentToken(database, organizationId);
      ({ deviceId } = await devices.enroll({ enrollmentToken, deviceIdentifier: 'd', labels: {}, agentVersion: '1' }));
      assignments = new FakeAssignmentPort();
      newTransfers = (overrides = {}) =>
        createTransferService({
          database,
          assignments,
          rollouts: NO_ROLLOUTS,
          hub: devices.hub,
          clock: systemClock,
          logger: silentLogger,
          objects,
          settings: {
            stagingRoot: join(folder, 'staging'),
            partSizeBytes: PART,
            ticketLifetimeMs: 60_000,
            checkLeaseMs: LEASE_MS,
          },
          ...overrides,
        });
      transfers = newTransfers();
      await transfers.start();
    });

    afterAll(async () => {
      await transfers.stop();
      await objects.close();
      await database.close();
      await rm(folder, { recursive: true, force: true });
    });

    const begin = async (bytes: Uint8Array) => {
      const issued = await transfers.issueTicket(deviceId, {
        key: { assignmentId: await insertAssignment(database, organizationId, deviceId), attempt: 1 },
        format: 'delta',
        sizeBytes: bytes.length,
        sha256: createHash('sha256').update(bytes).digest('hex'),
        sampleCount: 5,
        metrics: {},
      });
      if ('verdict' in issued) throw new OctomilError('internal', 'a ticket was expected');
      return { ...issued, proof: { ticketId: issued.ticket.id, token: issued.ticket.token, deviceId } };
    };
    const send = async (
      part: { number: number; url: string; headers: Readonly<Record<string, string>> },
      bytes: Buffer,
    ) => {
      const body = Buffer.from(bytes.subarray(part.number * PART, (part.number + 1) * PART));
      const response = await fetch(part.url, { method: 'PUT', headers: part.headers, body });
      await response.arrayBuffer();
      expect([200, 201, 308]).toContain(response.status);
    };
    const claimedBy = async (ticketId: string) => {
      const { rows } = await sql<{ claimed_by: string | null }>`
        select claimed_by from upload_tickets where id = ${ticketId}`.execute(database.kysely);
      return rows[0]?.claimed_by ?? null;
    };
    const inBucket = async () => {
      const keys: string[] = [];
      for await (const { key } of objects.list('incoming/')) keys.push(key);
      return keys;
    };

    test('parts sent there are checked here, count once, and leave nothing behind', async () => {
      const bytes = randomBytes(SIZE);
      const { directParts, receivedParts, proof } = await begin(bytes);
      expect([directParts.map(({ number }) => number), receivedParts]).toEqual([[0, 1], []]);
      for (const part of directParts) await send(part, bytes);
      expect(await transfers.complete(proof)).toEqual({ accepted: true });
      expect(await transfers.complete(proof)).toEqual({ accepted: true });
      expect(assignments.updates.at(-1)).toMatchObject({ sha256: createHash('sha256').update(bytes).digest('hex') });
      await until(async () => (await inBucket()).length === 0);
    });

    test('other bytes than announced never count, and the way through the coordinator stays open', async () => {
      const bytes = randomBytes(SIZE);
      const wrong = Buffer.from(bytes);
      wrong[7] = (wrong[7] ?? 0) ^ 1;
      const before = assignments.updates.length;
      const { directParts, proof } = await begin(bytes);
      for (const part of directParts) await send(part, wrong);
      await expect(transfers.complete(proof)).rejects.toMatchObject({ code: 'checksum_mismatch' });
      expect([assignments.updates.length, await inBucket()]).toEqual([before, []]);
      for (const index of [0, 1]) {
        const part = bytes.subarray(index * PART, (index + 1) * PART);
        await transfers.putPart(proof, index, onePiece(part), part.length);
      }
      expect(await transfers.complete(proof)).toEqual({ accepted: true });
    });

    test('completing answers at once, and an update that fails its checks is refused and gone', async () => {
      const bytes = randomBytes(SIZE);
      const { directParts, proof } = await begin(bytes);
      for (const part of directParts) await send(part, bytes);
      const gate = Promise.withResolvers<void>();
      assignments.gate = gate.promise;
      const reason = new OctomilError('update_rejected', 'tensor 0 holds numbers that are none').toBody();
      assignments.verdict = { accepted: false, reason };
      try {
        expect(await transfers.completeSoon(proof, 0)).toBeUndefined();
        expect((await transfers.state(proof)).ticket.state).toBe('arrived');
        gate.resolve();
        expect(await transfers.completeSoon(proof, 20_000)).toEqual({ accepted: false, reason });
        expect(await transfers.complete(proof)).toEqual({ accepted: false, reason });
        await until(async () => (await inBucket()).length === 0);
      } finally {
        gate.resolve();
        assignments.gate = Promise.resolve();
        assignments.verdict = { accepted: true };
      }
    });

    test('another coordinator takes over what a killed one was checking: it counts once', async () => {
      const bytes = randomBytes(SIZE);
      const { directParts, proof } = await begin(bytes);
      for (const part of directParts) await send(part, bytes);
      // Its timers never fire, as of a process that is gone; what it waits for never comes.
      const deaf = new FakeAssignmentPort();
      const never = Promise.withResolvers<void>();
      deaf.gate = never.promise;
      const clock: Clock = {
        now: () => systemClock.now(),
        sleep: () => new Promise(() => undefined),
        after: () => () => undefined,
      };
      const killed = newTransfers({ assignments: deaf, clock });
      await killed.start();
      expect(await killed.completeSoon(proof, 0)).toBeUndefined();
      await until(async () => deaf.calls.length > 0 || (await claimedBy(proof.ticketId)) !== null);
      const before = assignments.updates.length;
      // Within a lease and the look that follows; the row is the only thing they share.
      expect(await transfers.completeSoon(proof, 20_000)).toEqual({ accepted: true });
      expect(assignments.updates.length).toBe(before + 1);
      // The first one was only slow after all: it changes nothing any more.
      never.resolve();
      await killed.stop();
      expect(await transfers.complete(proof)).toEqual({ accepted: true });
      expect(assignments.updates.length).toBe(before + 1);
      await until(async () => (await inBucket()).length === 0);
    });

    test('a failure that has nothing to do with the bytes is tried again', async () => {
      const bytes = randomBytes(SIZE);
      const { directParts, proof } = await begin(bytes);
      for (const part of directParts) await send(part, bytes);
      assignments.failures.set('submitUpdate', new OctomilError('network_unavailable', 'the database went away'));
      const before = assignments.updates.length;
      expect(await transfers.completeSoon(proof, 200)).toBeUndefined();
      assignments.failures.clear();
      expect(await transfers.completeSoon(proof, 20_000)).toEqual({ accepted: true });
      expect(assignments.updates.length).toBe(before + 1);
    });

    test('an update whose round is over meanwhile is told so, and leaves nothing behind', async () => {
      const bytes = randomBytes(SIZE);
      const { directParts, proof } = await begin(bytes);
      for (const part of directParts) await send(part, bytes);
      assignments.failures.set('submitUpdate', new OctomilError('round_closed', 'the session was cancelled'));
      try {
        await expect(transfers.completeSoon(proof, 20_000)).rejects.toMatchObject({ code: 'round_closed' });
        // Whoever asks again hears the same, not that a new ticket would help.
        await expect(transfers.completeSoon(proof, 0)).rejects.toMatchObject({ code: 'round_closed' });
        await until(async () => (await inBucket()).length === 0);
      } finally {
        assignments.failures.clear();
      }
    });

    test('an update that somebody took out of the bucket may be sent again', async () => {
      const bytes = randomBytes(SIZE);
      const { directParts, proof } = await begin(bytes);
      for (const part of directParts) await send(part, bytes);
      // Another coordinator has it, and lets go of it once the object is gone.
      const claimed = sql`update upload_tickets set state = 'arrived', claimed_by = 'x',
        claimed_until = now() + interval '1 second' where id = ${proof.ticketId}`;
      await claimed.execute(database.kysely);
      const { rows } = await sql<{ direct: { key: string; uploadId: string } }>`
        select header -> 'direct' as direct from upload_tickets where id = ${proof.ticketId}`.execute(database.kysely);
      const [row] = rows;
      if (row !== undefined) await objects.direct?.abort(row.direct);
      // Some buckets make it an object with the last part.
      if (row !== undefined) await objects.delete(row.direct.key);
      await expect(transfers.completeSoon(proof, 20_000)).rejects.toMatchObject({ code: 'transfer_incomplete' });
      for (const index of [0, 1]) {
        const part = bytes.subarray(index * PART, (index + 1) * PART);
        await transfers.putPart(proof, index, onePiece(part), part.length);
      }
      expect(await transfers.complete(proof)).toEqual({ accepted: true });
    });

    test('what a ticket that expired had sent to the bucket is taken away', async () => {
      const bytes = randomBytes(SIZE);
      const { directParts, proof } = await begin(bytes);
      const [first] = directParts;
      if (first !== undefined) await send(first, bytes);
      await sql`update upload_tickets set expires_at = now() - interval '1 second' where id = ${proof.ticketId}`.execute(
        database.kysely,
      );
      // Looks at what there is when it starts.
      const other = newTransfers();
      await other.start();
      const rows = await sql<{ direct: unknown }>`
        select header -> 'direct' as direct from upload_tickets where id = ${proof.ticketId}`.execute(database.kysely);
      expect(rows.rows).toEqual([{ direct: null }]);
      await other.stop();
      await expect(transfers.complete(proof)).rejects.toMatchObject({ code: 'ticket_expired' });
    });

    test('a sender that cannot reach the bucket any more sends everything to the coordinator', async () => {
      const bytes = randomBytes(SIZE);
      const { directParts, proof } = await begin(bytes);
      const [first] = directParts;
      if (first !== undefined) await send(first, bytes);
      for (const index of [1, 0]) {
        const part = bytes.subarray(index * PART, (index + 1) * PART);
        await transfers.putPart(proof, index, onePiece(part), part.length);
      }
      expect(await transfers.complete(proof)).toEqual({ accepted: true });
      expect(await inBucket()).toEqual([]);
    });
  });
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    if (await holds()) return;
    await systemClock.sleep(50);
  }
  expect('it holds').toBe('it does not hold');
}

async function* onePiece(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
