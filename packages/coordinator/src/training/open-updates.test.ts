import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { modelDocument, parseArchitecture } from '@octomil/shared/models';
import { decodeWeights, encodeWeights, type NamedTensor, weightsFromSafetensors } from '@octomil/shared/tensors';
import { sql } from 'kysely';
import { outsideAnyTransaction } from '../database/transaction-guard.js';
import { describeOnDatabases } from '../testing/databases.js';
import type { TrainingEngine } from './engine.js';
import { storeBytes } from './object-keys.js';
import type { UploadHeader } from './open-updates.js';
import { RoundFactsReader } from './round-facts.js';
import { type Fixture, openFixture } from './testing/training-fixture.js';

const WIDTH = 3;

/** A logistic model's tensors, all of one value. */
function tensors(value: number, of: readonly NamedTensor[]): NamedTensor[] {
  return of.map((tensor) => ({ ...tensor, data: tensor.data.map(() => value) }));
}

describeOnDatabases('Open updates', (open) => {
  let on: Fixture;
  let engine: TrainingEngine;
  let base: NamedTensor[];

  beforeAll(async () => {
    on = await openFixture(open);
    engine = await on.engine();
  }, 240_000);

  afterAll(() => on.close(), 60_000);

  const caller = () => ({ organizationId: on.organizationId, name: 'test' });

  /** Another model with one version, whose weights are all 1. */
  async function model(): Promise<{ id: string; version: string }> {
    const id = randomUUID();
    await on.database.kysely
      .insertInto('models')
      .values({ id, organization_id: on.organizationId, name: `model ${id}`, description: '' } as never)
      .execute();
    const document = modelDocument(parseArchitecture('logistic'), WIDTH);
    base = [
      { name: 'output/bias', shape: [1], data: Float32Array.of(1) },
      { name: 'output/kernel', shape: [WIDTH, 1], data: Float32Array.of(1, 1, 1) },
    ];
    const stored = await storeBytes(on.objects, 'checkpoints', encodeWeights(base));
    const checkpoint = { id: randomUUID(), ...stored };
    await sql`insert into checkpoints (id, organization_id, object_key, sha256, size_bytes, lineage)
        values (${checkpoint.id}, ${on.organizationId}, ${stored.objectKey}, ${stored.sha256},
          ${stored.sizeBytes}::bigint, '{}')`.execute(on.database.kysely);
    const { version } = await on.database.transact((transaction) =>
      on.registry.createVersionFromCheckpoint(
        {
          ...{ modelId: id, requestedVersion: null, baseVersionId: null, document, lineage: {}, metrics: {} },
          checkpoint,
          publish: true,
          sessionId: randomUUID(),
        },
        transaction,
      ),
    );
    return { id, version };
  }

  function upload(
    of: { id: string; version: string },
    deviceId: string,
    value: number,
    more: Partial<UploadHeader> = {},
  ) {
    const header: UploadHeader = {
      ...{ model: of.id, version: of.version, deviceId, sampleCount: 10, metrics: {}, format: 'weights' },
      ...more,
    };
    return engine.open.updates.accept(header, { kind: 'bytes', bytes: encodeWeights(tensors(value, base)) }, caller());
  }

  async function valuesOf(modelId: string, version: string): Promise<number[]> {
    const made = await on.registry.baseFor(modelId, version);
    const bytes = await on.objects.readAll(made?.weights.objectKey ?? '', 1_000_000);
    return [...new Set(weightsFromSafetensors(bytes).flatMap(({ data }) => [...data]))];
  }

  test('an update that makes way for a later one of its device leaves no object behind', async () => {
    const of = await model();
    const device = await on.device(`again-${randomUUID()}`);
    const first = await upload(of, device, 2);
    for (const value of [3, 4]) await upload(of, device, value);
    const stored: string[] = [];
    for await (const { key } of on.objects.list(`updates/${first['round_id']}/`)) stored.push(key);
    expect(stored).toHaveLength(1);
  });

  test("of a device's own models the present ones are kept, and what was left over is swept", async () => {
    const name = `own-${randomUUID()}`;
    const device = await engine.open.store.device(on.organizationId, await on.device(name));
    const put = (value: number) =>
      engine.open.personalized.put(device, 'm', { bytes: Uint8Array.of(value), version: '1', metrics: {} });
    await put(1);
    const { sha256 } = await put(2);
    await on.objects.put(`personalized/${device.id}/left-over`, new Uint8Array(1));
    await (await on.engine({ settings: { retention: { orphanGraceHours: 0 } } })).retention.run();
    const stored: string[] = [];
    for await (const { key } of on.objects.list(`personalized/${device.id}/`)) stored.push(key);
    expect(stored).toEqual([`personalized/${device.id}/${sha256}`]);
  });

  const aggregate = (body: Record<string, unknown>) =>
    engine.open.aggregate.aggregate({ model_id: '', ...body }, caller());

  test('uploads that come at once share a round, and each device counts once', async () => {
    const of = await model();
    const devices = await Promise.all(['a', 'b', 'c', 'd'].map((name) => on.device(`${name}-${of.id}`)));
    const twice = [...devices, ...devices];
    const answers = await Promise.all(twice.map((device) => upload(of, device, 2)));
    expect(new Set(answers.map((answer) => answer['round_id'])).size).toBe(1);
    expect(new Set(answers.map((answer) => answer['update_id'])).size).toBe(4);
    const result = await aggregate({ model_id: of.id, min_updates: 4 });
    expect(result).toMatchObject({ status: 'completed', updates: 4 });
    expect(await valuesOf(of.id, String(result['new_version']))).toEqual([2]);
    await expect(aggregate({ model_id: of.id, base_version: of.version, min_updates: 1 })).rejects.toMatchObject({
      code: 'insufficient_updates',
    });
  });

  test('weights and changes of one round are averaged as what they mean', async () => {
    const of = await model();
    const [a, b] = [await on.device(`a-${of.id}`), await on.device(`b-${of.id}`)];
    await upload(of, a, 3, { sampleCount: 30 });
    // 1 + 6, with a third of the other's rows.
    await upload(of, b, 6, { format: 'delta', sampleCount: 10 });
    const result = await aggregate({ model_id: of.id, min_updates: 2, new_version: '5.0.0', publish: false });
    expect(result).toMatchObject({ new_version: '5.0.0' });
    expect(await valuesOf(of.id, '5.0.0')).toEqual([(3 * 30 + 7 * 10) / 40]);
    // A draft is nobody's latest.
    expect((await on.registry.baseFor(of.id, undefined))?.versionId).not.toBe(result['version_id']);
  });

  test('whoever trains again before the round closes is taken at the latest word', async () => {
    const of = await model();
    const device = await on.device(`a-${of.id}`);
    const first = await upload(of, device, 3);
    const second = await upload(of, device, 5);
    expect([first['status'], second['status']]).toEqual(['accepted', 'accepted']);
    expect(second['round_id']).toBe(first['round_id']);
    const result = await aggregate({ model_id: of.id });
    expect(result).toMatchObject({ updates: 1 });
    expect(await valuesOf(of.id, String(result['new_version']))).toEqual([5]);
  });

  test('in a session that somebody started the first word stays, and the quorum closes the round', async () => {
    const of = await model();
    const [a, b] = [await on.device(`a-${of.id}`), await on.device(`b-${of.id}`)];
    const { id } = await engine.sessions.create(
      { model_id: of.id, admission: 'open', rounds: 1, min_updates: 2, update_format: 'weights' },
      caller(),
    );
    await upload(of, a, 2);
    expect(await upload(of, a, 9)).toMatchObject({ status: 'rejected', reason_code: 'already_answered' });
    await expect(aggregate({ model_id: of.id })).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(
      engine.sessions.create({ model_id: of.id, admission: 'open', min_updates: 1 }, caller()),
    ).rejects.toMatchObject({ code: 'conflict' });
    await upload(of, b, 4);
    for (let tries = 0; tries < 500 && (await on.state(id)).state === 'running'; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(await on.state(id)).toMatchObject({ state: 'completed' });
    const latest = await on.registry.baseFor(of.id, undefined);
    const bytes = await on.objects.readAll(latest?.weights.objectKey ?? '', 1_000_000);
    expect(decodeWeights(bytes).flatMap(({ data }) => [...data])).toEqual([3, 3, 3, 3]);
  });

  test('a later word that waited while its round closed counts for nothing, and the first one is left alone', async () => {
    const of = await model();
    const device = await on.device(`a-${of.id}`);
    const first = await upload(of, device, 3);
    const [sessionId, roundId] = [String(first['session_id']), String(first['round_id'])];
    let waiting: Promise<unknown> = Promise.resolve();
    await on.database.transact(async (transaction) => {
      await sql`select id from training_sessions where id = ${sessionId} for no key update`.execute(transaction);
      const update = {
        ...{ updateId: randomUUID(), assignmentId: randomUUID(), deviceId: device, format: 'weights' as const },
        ...{ objectKey: 'updates/later', sha256: 'later', sizeBytes: 1, sampleCount: 1, weight: 1, metrics: {} },
      };
      waiting = outsideAnyTransaction(() =>
        engine.open.store.count({ sessionId, id: roundId }, update, { type: 'update', data: {} }, true),
      );
      // The embedded database has one session: there it waits for the transaction as a whole.
      for (let tries = 0; tries < 100; tries += 1) {
        const { rows } = await sql`select from pg_locks where not granted`.execute(transaction);
        if (rows.length > 0) break;
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      await sql`update rounds set state = 'aggregating' where id = ${roundId}`.execute(transaction);
      await sql`update training_sessions set updated_at = now() where id = ${sessionId}`.execute(transaction);
    });
    expect(await waiting).toEqual({ kind: 'closed' });
    const { rows } = await sql<{ id: string }>`
      select id from updates where round_id = ${roundId} and state = 'accepted'`.execute(on.database.kysely);
    expect(rows).toEqual([{ id: first['update_id'] }]);
  });

  test('an organization that joins sees the round that is collecting, and one that has left does not', async () => {
    const of = await model();
    const { id, roundId } = await engine.sessions.create(
      { model_id: of.id, admission: 'open', rounds: 1, min_updates: 2 },
      caller(),
    );
    const organizationId = randomUUID();
    const member = { organizationId };
    await expect(engine.open.rounds.status(roundId, member)).rejects.toMatchObject({ code: 'not_found' });
    await sql`insert into organizations (id, name) values (${organizationId}, ${organizationId})`.execute(
      on.database.kysely,
    );
    await sql`insert into federation_members (federation_id, organization_id, status)
      select federation_id, ${organizationId}, 'active' from training_sessions where id = ${id}`.execute(
      on.database.kysely,
    );
    expect(await engine.open.rounds.status(roundId, member)).toMatchObject({ round_id: roundId });
    const foreign = { ...caller(), ...member };
    const version = { model: of.id, version: of.version, roundId };
    expect(await engine.open.updates.limitBytes(version, foreign)).toBeGreaterThan(0);
    await sql`delete from federation_members where organization_id = ${organizationId}`.execute(on.database.kysely);
    await expect(engine.open.rounds.status(roundId, member)).rejects.toMatchObject({ code: 'not_found' });
    await expect(engine.open.updates.limitBytes(version, foreign)).rejects.toMatchObject({ code: 'not_found' });
    await engine.sessions.cancel(on.organizationId, id);
  });

  test('what a request for the aggregate has decided is read again, whoever is reading the round already', async () => {
    const of = await model();
    const { round_id: round } = await upload(of, await on.device(`a-${of.id}`), 2);
    const facts = new RoundFactsReader(on.database);
    facts.remember(String(round), new Promise(() => undefined));
    expect((await facts.fresh(String(round)))?.id).toBe(round);
  });

  test('two requests at once make one version', async () => {
    const of = await model();
    await upload(of, await on.device(`a-${of.id}`), 2);
    const results = await Promise.all([0, 1, 2].map(() => aggregate({ model_id: of.id })));
    expect(new Set(results.map((result) => result['new_version'])).size).toBe(1);
    const { rows } = await sql<{ count: number }>`
        select count(*)::integer as count from versions where model_id = ${of.id}`.execute(on.database.kysely);
    expect(rows[0]?.count).toBe(2);
  });

  test('what a retry leaves behind in the store is nothing', async () => {
    const of = await model();
    const device = await on.device(`a-${of.id}`);
    const { round_id: round } = await upload(of, device, 2);
    await upload(of, device, 2);
    const keys: string[] = [];
    for await (const { key } of on.objects.list(`updates/${String(round)}/`)) keys.push(key);
    expect(keys).toHaveLength(1);
  });

  test('a person may pause, resume and cancel an open session', async () => {
    const of = await model();
    const device = await on.device(`a-${of.id}`);
    const { id } = await engine.sessions.create(
      { model_id: of.id, admission: 'open', rounds: 1, min_updates: 1 },
      caller(),
    );
    await engine.sessions.pause(on.organizationId, id);
    await engine.sessions.resume(on.organizationId, id);
    const known = await on.rounds(id);
    const round = known.at(-1);
    await engine.wake(round?.id ?? '');
    expect((await on.rounds(id)).map(({ state }) => state)).toEqual(['cancelled', 'collecting']);
    await engine.sessions.cancel(on.organizationId, id);
    await expect(upload(of, device, 2, { roundId: round?.id })).rejects.toMatchObject({ code: 'wrong_state' });
  });
});
