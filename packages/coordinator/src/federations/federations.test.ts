import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { Database } from '../database/database.js';
import { ModelStore } from '../models/model-store.js';
import { describeOnDatabases } from '../testing/databases.js';
import { insertOrganization } from '../testing/enrolled-device.js';
import { Federations } from './federations.js';

describeOnDatabases('Federations,', (open) => {
  let database: Database;
  let federations: Federations;
  let models: ModelStore;

  beforeAll(async () => {
    database = await open();
    federations = new Federations(database);
    models = new ModelStore(database);
  }, 240_000);
  afterAll(() => database.close());

  test('a model that is shared while its owner leaves is not read by the others afterwards', async () => {
    const [owner, member] = [await insertOrganization(database), await insertOrganization(database)];
    const federation = await federations.create(owner, 'cardiology', '');
    for (let round = 0; round < 5; round++) {
      await federations.invite(federation, [member]);
      await federations.join(member, federation.id);
      // What a request that is on its way has seen.
      const seen = await federations.joined(member, federation.id);
      const { id } = await models.create(member, { name: `model ${round}` });
      const left = round === 0 ? await federations.remove(federation, member) : federations.remove(federation, member);
      const [shared] = await Promise.allSettled([federations.share(seen, id, member), left]);
      if (round === 0) expect(shared).toMatchObject({ status: 'rejected', reason: { code: 'forbidden' } });
      await expect(models.getReadable(owner, id)).rejects.toMatchObject({ code: 'model_not_found' });
    }
  });
});
