import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { sql } from 'kysely';
import { describeOnDatabases } from '../testing/databases.js';
import { PersonalizedModels } from './personalized.js';
import { type Fixture, openFixture } from './testing/training-fixture.js';

describeOnDatabases('Personalized models', (open) => {
  let on: Fixture;
  beforeAll(async () => {
    on = await openFixture(open);
  }, 240_000);
  afterAll(() => on.close(), 60_000);

  test('a device keeps so many models and no more, however often it replaces them', async () => {
    const personalized = new PersonalizedModels(on);
    const name = 'hoarder';
    const id = await on.device(name);
    const device = { id, name, organizationId: on.organizationId, identity: 'enrolled' } as const;
    await sql`insert into personalized_models (device_id, model_id, object_key, sha256, size_bytes, version)
        select ${id}, 'm' || n, 'personalized/none', 'x', 1, '' from generate_series(1, 63) as n`.execute(
      on.database.kysely,
    );
    const put = (model: string) =>
      personalized.put(device, model, { bytes: new TextEncoder().encode(model), version: '', metrics: {} });
    await put('last');
    await put('last');
    await expect(put('one more')).rejects.toMatchObject({ code: 'insufficient_storage' });
    const stored: string[] = [];
    for await (const { key } of on.objects.list(`personalized/${id}/`)) stored.push(key);
    expect(stored).toHaveLength(1);
  });
});
