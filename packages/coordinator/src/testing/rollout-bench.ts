import { randomUUID } from 'node:crypto';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { createAuditLog } from '../audit/index.js';
import type { Database } from '../database/database.js';
import type { OpenDatabase } from '../database/open-database.js';
import type { VersionStatus } from '../database/tables.js';
import { openJobs } from '../jobs/index.js';
import { type Model, ModelStore } from '../models/model-store.js';
import { VersionStore } from '../models/version-store.js';
import { createRolloutService, type RolloutService, type RolloutSettings } from '../rollouts/rollout-service.js';
import { insertOrganization } from './enrolled-device.js';

/** For tests of rollouts: a database with an organization, a model and versions, and the service on it. */
export interface RolloutBench {
  readonly database: OpenDatabase;
  readonly organizationId: string;
  readonly model: Model;
  readonly models: ModelStore;
  readonly service: RolloutService;
  /** Adds a version with one file and answers its id; digests are the version's number, repeated. */
  version(status?: VersionStatus, model?: Model): Promise<{ id: string; version: string; sha256: string }>;
  /** Adds active devices with these placements and answers their ids. */
  devices(placements: readonly number[], labels?: Record<string, string>): Promise<string[]>;
  close(): Promise<void>;
}

export async function openRolloutBench(
  open: () => Promise<OpenDatabase>,
  settings: RolloutSettings = {},
  random: () => number = Math.random,
): Promise<RolloutBench> {
  const database = await open();
  const jobs = await openJobs({ database, logger: silentLogger });
  const organizationId = await insertOrganization(database);
  const models = new ModelStore(database);
  const model = await models.create(organizationId, { name: `model ${randomUUID()}` });
  const service = createRolloutService({
    database,
    jobs,
    registry: { versions: new VersionStore(database) },
    audit: createAuditLog({ database }),
    clock: systemClock,
    logger: silentLogger,
    random,
    settings,
  });
  let count = 0;
  return {
    database,
    organizationId,
    model,
    models,
    service,
    async version(status = 'published', of = model) {
      count += 1;
      const row = { id: randomUUID(), version: `${count}.0.0`, sha256: count.toString(16).padStart(2, '0').repeat(32) };
      await database.kysely
        .insertInto('versions')
        .values({
          id: row.id,
          model_id: of.id,
          sequence: count,
          version: row.version,
          status,
          description: '',
          base_version_id: null,
          checkpoint_id: null,
          session_id: null,
          lineage: '{}',
          metrics: '{}',
          created_by: null,
        })
        .execute();
      const artifact = { format: 'onnx', file_name: 'a/b model.onnx', object_key: `objects/${row.id}`, size_bytes: 5 };
      await database.kysely
        .insertInto('artifacts')
        .values({ version_id: row.id, sha256: row.sha256, ...artifact })
        .execute();
      return row;
    },
    async devices(placements, labels = {}) {
      const ids = placements.map(() => randomUUID());
      await insertDevices(database, organizationId, ids, placements, labels);
      return ids;
    },
    async close() {
      await service.stop();
      await jobs.close();
      await database.close();
    },
  };
}

async function insertDevices(
  database: Database,
  organizationId: string,
  ids: readonly string[],
  placements: readonly number[],
  labels: Record<string, string>,
): Promise<void> {
  await sql`
    insert into devices (id, organization_id, device_identifier, placement, labels)
    select id, ${organizationId}, id, placement, ${JSON.stringify(labels)}::text::jsonb
    from unnest(${ids}::text[], ${placements}::float8[]) as list(id, placement)`.execute(database.kysely);
}
