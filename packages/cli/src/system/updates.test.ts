import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, jest, test } from '@jest/globals';
import type { Assignment } from '@octomil/proto';
import type { TrainingRun } from '@octomil/sdk';
import { decodeWeights, encodeWeights } from '@octomil/shared/tensors';
import { type Fleet, startFleet } from '../fleet/fleet.js';
import { FakeDevice, refOf } from './fake-device.js';

jest.setTimeout(30_000);

let fleet: Fleet;
let one: FakeDevice;
let two: FakeDevice;
let run: TrainingRun;

beforeAll(async () => {
  fleet = await startFleet({ agents: 0 });
  await fleet.registry.ensureModel({ name: 'risk' });
  [one, two] = await Promise.all([enrol('one'), enrol('two')]);
  await Promise.all([one.connect(), two.connect()]);
}, 240_000);

afterAll(async () => {
  await Promise.all([one.close(), two.close()]);
  await fleet.stop();
}, 240_000);

beforeEach(async () => {
  run = await fleet.federation().start({
    ...{ model: 'risk', architecture: 'logistic', trainer: 'echo', rounds: 1, minUpdates: 2, seed: 7 },
    ...{ maxRoundRetries: 0, baseVersion: 'initial', updateFormat: 'delta' },
  });
});

afterEach(async () => {
  await run.cancel().catch(() => undefined);
});

async function enrol(name: string): Promise<FakeDevice> {
  const { token } = await fleet.organization.createEnrollmentToken();
  return FakeDevice.enroll(fleet.grpcAddress, String(token), name);
}

/** The base of an assignment as a device gets it. */
async function baseOf(device: FakeDevice, assignment: Assignment): Promise<Uint8Array> {
  const answer = await fetch(`${fleet.apiBase}/transfers/objects/${assignment.base?.sha256}`, {
    headers: { authorization: `Bearer ${device.credential}` },
  });
  expect(answer.status).toBe(200);
  return new Uint8Array(await answer.arrayBuffer());
}

/** A delta of ones, changed as told. */
function delta(
  base: Uint8Array,
  change: (data: Float32Array, shape: number[], index: number) => void = () => undefined,
) {
  return encodeWeights(
    decodeWeights(base).map(({ name, shape, data }, index) => {
      const tensor = { name, shape: [...shape], data: data.map(() => 1) };
      change(tensor.data, tensor.shape, index);
      return tensor;
    }),
  );
}

async function good(device: FakeDevice, assignment: Assignment): Promise<void> {
  expect(await device.submit(assignment, delta(await baseOf(device, assignment)))).toEqual({ accepted: true });
}

type Bad = (device: FakeDevice, assignment: Assignment, base: Uint8Array) => Parameters<FakeDevice['submit']>;

const BAD: readonly [string, Bad, string, RegExp][] = [
  [
    'wrong shapes',
    (_device, assignment, base) => {
      const tensors = decodeWeights(base).map(({ name, data }) => ({ name, shape: [data.length, 1, 1], data }));
      return [assignment, encodeWeights(tensors)];
    },
    'update_rejected',
    /shape/,
  ],
  [
    'a tensor of another name',
    (_device, assignment, base) => [
      assignment,
      encodeWeights(decodeWeights(base).map((tensor, index) => (index === 0 ? { ...tensor, name: 'other' } : tensor))),
    ],
    'update_rejected',
    /tensor/,
  ],
  [
    'NaN',
    (_device, assignment, base) => [
      assignment,
      delta(base, (data, _shape, index) => {
        if (index === 0) data[0] = Number.NaN;
      }),
    ],
    'update_rejected',
    /NaN|not finite|finite/,
  ],
  [
    'a wrong digest',
    (_device, assignment, base) => [assignment, delta(base), { sha256: 'a'.repeat(64) }],
    'checksum_mismatch',
    /a{64}/,
  ],
  [
    'text in place of weights',
    (_device, assignment, base) => [assignment, new Uint8Array(base.length).fill(123)],
    'update_rejected',
    /./,
  ],
  [
    'another format',
    (_device, assignment, base) => [assignment, delta(base), { format: 'weights' }],
    'update_rejected',
    /"weights".*"delta"/,
  ],
  [
    'no samples',
    (_device, assignment, base) => [assignment, delta(base), { sampleCount: 0 }],
    'update_rejected',
    /sample_count is 0/,
  ],
  [
    'bytes beyond those announced',
    (_device, assignment, base) => [assignment, delta(base), { sizeBytes: base.length - 8 }],
    'update_rejected',
    /header says/,
  ],
];

test.each(BAD)(
  'an update with %s: a verdict for its device, and the session names it',
  async (_what, make, code, reason) => {
    const [mine, theirs] = await Promise.all([one.nextAssignment(), two.nextAssignment()]);
    const verdict = await one.submit(...make(one, mine, await baseOf(one, mine)));
    expect(verdict).toMatchObject({ accepted: false, code, message: expect.stringMatching(reason) });
    // Its bytes are nowhere, and it does not count.
    expect(await updatesStored(mine)).toEqual([]);
    // The other one's does, but alone it is not enough: the session stops and says who is missing.
    await two.submit(theirs, delta(await baseOf(two, theirs)));
    await expect(run.result()).rejects.toMatchObject({
      code: 'insufficient_updates',
      reason: expect.stringMatching(/one: failed \(.*/),
    });
    const session = await run.session();
    expect(session.status).toBe('paused');
    expect(session.reason).toMatch(reason);
  },
);

test('a ticket for more bytes than the model has: refused before one is sent, and the session names it', async () => {
  const [mine, theirs] = await Promise.all([one.nextAssignment(), two.nextAssignment()]);
  const header = one.header(mine, delta(await baseOf(one, mine)), { sizeBytes: 2 ** 40 });
  one.say({ case: 'ticketRequest', value: { header } });
  const refused = { accepted: false, code: 'update_rejected', message: expect.stringMatching(/1099511627776 bytes/) };
  expect(await one.verdict()).toMatchObject(refused);
  // Two are needed and there are two: nobody waits for the other one.
  await two.submit(theirs, delta(await baseOf(two, theirs)));
  await expect(run.result()).rejects.toMatchObject({ reason: expect.stringMatching(/one: failed .*1099511627776/) });
});

/** Bytes that the coordinator keeps of this assignment. */
async function updatesStored(assignment: Assignment): Promise<string[]> {
  const objects = join(fleet.folder, 'coordinator');
  const names = await readdir(objects, { recursive: true });
  return names.filter((name) => name.includes(refOf(assignment).assignmentId));
}

test('a round that is not the device’s own, one that is closed, and one that never was', async () => {
  const [mine, theirs] = await Promise.all([one.nextAssignment(), two.nextAssignment()]);
  const bytes = delta(await baseOf(one, mine));
  const submit = (assignment: { assignmentId: string; attempt: number }) => one.submit(mine, bytes, { assignment });
  expect(await submit(refOf(theirs))).toMatchObject({ accepted: false, code: 'assignment_not_found' });
  expect(await submit({ assignmentId: 'never', attempt: 1 })).toMatchObject({ code: 'assignment_not_found' });
  expect(await submit({ ...refOf(mine), attempt: 7 })).toMatchObject({
    code: 'superseded',
    message: expect.stringMatching(/attempt 7 .*attempt 1/),
  });
  // None of it was counted for anybody.
  expect((await run.rounds()).at(-1)?.['acceptedUpdates']).toBe(0);
  await good(two, theirs);
  await good(one, mine);
  expect((await run.result()).status).toBe('completed');
  const other = delta(await Promise.resolve(bytes), (data) => data.fill(2));
  expect(await one.submit(mine, other)).toMatchObject({
    accepted: false,
    message: expect.stringMatching(/round|counts/),
  });
});

test('the second update of a device in a round does not count beside the first', async () => {
  const [mine, theirs] = await Promise.all([one.nextAssignment(), two.nextAssignment()]);
  const base = await baseOf(one, mine);
  await good(one, mine);
  const again = await one.submit(
    mine,
    delta(base, (data) => data.fill(1_000)),
  );
  expect(again).toMatchObject({ accepted: false, message: expect.stringMatching(/counts in this round already/) });
  // Repeated as it was (its verdict was lost), it gets its verdict again.
  await good(one, mine);
  await good(two, theirs);
  expect((await run.result()).status).toBe('completed');
});

test('a stale epoch ends its session and touches nothing', async () => {
  const [mine, theirs] = await Promise.all([one.nextAssignment(), two.nextAssignment()]);
  const bytes = delta(await baseOf(one, mine));
  one.say({ case: 'inlineUpdate', value: { header: one.header(mine, bytes), data: bytes } }, one.epoch - 1n);
  const { reason } = await one.hear('superseded');
  expect(reason).toMatchObject({ code: 'superseded', message: expect.stringMatching(/epoch/) });
  await one.over;
  expect((await run.rounds()).at(-1)?.['acceptedUpdates']).toBe(0);
  await one.connect();
  await good(one, await one.nextAssignment());
  await good(two, theirs);
  expect((await run.result()).status).toBe('completed');
});

test('more bytes than the ticket, another part, another device, another token: refused, and the upload goes on', async () => {
  const [mine, theirs] = await Promise.all([one.nextAssignment(), two.nextAssignment()]);
  const bytes = delta(await baseOf(one, mine));
  one.say({ case: 'ticketRequest', value: { header: one.header(mine, bytes) } });
  const ticket = await one.hear('uploadTicket');
  const part = async (body: Uint8Array, change: { part?: number; token?: string; credential?: string } = {}) => {
    const url = `${fleet.apiBase}/transfers/${ticket.ticketId}/parts/${change.part ?? 1}`;
    const headers = {
      authorization: `Bearer ${change.credential ?? one.credential}`,
      'x-octomil-ticket': change.token ?? ticket.token,
      'content-type': 'application/octet-stream',
    };
    const answer = await fetch(url, { method: 'PUT', headers, body: Buffer.from(body) });
    return { status: answer.status, ...((await answer.json()) as Record<string, unknown>) };
  };
  const firstPart = ticket.partCount === 1 ? await firstPartOf(part) : 1;
  expect(await part(Buffer.concat([bytes, new Uint8Array(1)]), { part: firstPart })).toMatchObject({
    code: expect.stringMatching(/too_large|invalid_input|ticket_invalid/),
    message: expect.stringMatching(new RegExp(String(bytes.length))),
  });
  expect(await part(bytes.subarray(1), { part: firstPart })).toMatchObject({ message: expect.stringMatching(/bytes/) });
  expect(await part(bytes, { part: 99 })).toMatchObject({ message: expect.stringMatching(/part/) });
  expect(await part(bytes, { part: firstPart, token: 'x'.repeat(43) })).toMatchObject({
    status: 403,
    code: 'ticket_invalid',
  });
  expect(await part(bytes, { part: firstPart, credential: two.credential })).toMatchObject({
    status: 403,
    code: 'ticket_invalid',
  });
  const complete = async () => {
    const answer = await fetch(`${fleet.apiBase}/transfers/${ticket.ticketId}/complete`, {
      method: 'POST',
      headers: { authorization: `Bearer ${one.credential}`, 'x-octomil-ticket': ticket.token },
    });
    return { status: answer.status, ...((await answer.json()) as Record<string, unknown>) };
  };
  expect(await complete()).toMatchObject({ code: 'transfer_incomplete' });
  expect((await part(bytes, { part: firstPart })).status).toBe(200);
  expect(await complete()).toMatchObject({ status: 200, accepted: true });
  await good(two, theirs);
  expect((await run.result()).status).toBe('completed');
});

/** Whether parts are counted from 0 or 1 is told by which one exists. */
async function firstPartOf(part: (body: Uint8Array, change: { part: number }) => Promise<Record<string, unknown>>) {
  const { message } = await part(new Uint8Array(), { part: 1 });
  return /no part 1\b|parts? 0\b/.test(String(message)) ? 0 : 1;
}

test('parts whose digest is not the one announced are dropped, and the right ones are taken', async () => {
  const [mine, theirs] = await Promise.all([one.nextAssignment(), two.nextAssignment()]);
  const bytes = delta(await baseOf(one, mine));
  const sha256 = createHash('sha256').update('something else').digest('hex');
  one.say({ case: 'ticketRequest', value: { header: one.header(mine, bytes, { sha256 }) } });
  const ticket = await one.hear('uploadTicket');
  const headers = { authorization: `Bearer ${one.credential}`, 'x-octomil-ticket': ticket.token };
  const url = `${fleet.apiBase}/transfers/${ticket.ticketId}`;
  for (const part of [0, 1]) {
    await fetch(`${url}/parts/${part}`, {
      ...{ method: 'PUT', headers: { ...headers, 'content-type': 'application/octet-stream' } },
      body: Buffer.from(bytes),
    });
  }
  const answer = await fetch(`${url}/complete`, { method: 'POST', headers });
  expect(answer.status).toBe(422);
  expect(await answer.json()).toMatchObject({ code: 'checksum_mismatch', message: expect.stringContaining(sha256) });
  expect(await updatesStored(mine)).toEqual([]);
  // A cut or damaged transfer is no fault of the update: the device may send it again.
  await good(one, mine);
  await good(two, theirs);
  expect((await run.result()).status).toBe('completed');
});

test('a wrong credential opens no session; a revoked one loses it at once', async () => {
  const stranger = await enrol('stranger');
  await expect(stranger.connect({ credential: `odc_${'a'.repeat(32)}_${'b'.repeat(43)}` })).rejects.toMatchObject({
    code: 'authentication_failed',
  });
  await stranger.connect();
  await fleet.organization.revokeDevice(stranger.deviceId);
  expect(await stranger.over).toMatchObject({ code: 'device_revoked' });
  await expect(stranger.connect()).rejects.toMatchObject({ code: 'device_revoked' });
  await stranger.close();
});
