import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { SiteEntry } from '@octomil/shared/features';
import { initialWeights, modelDocument } from '@octomil/shared/models';
import type { ObjectStore } from '@octomil/shared/storage';
import { encodeWeights } from '@octomil/shared/tensors';
import { type Static, Type } from 'typebox';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import { agreeOnFeatures, requireUsable } from './feature-agreement.js';
import { storeBytes } from './object-keys.js';
import type { ClientFormats, TrainingRegistry } from './ports.js';
import { readStatistics } from './reports.js';
import { parseSessionConfig } from './session-config.js';
import type { Caller, SessionService } from './session-service.js';

const Name = Type.String({ minLength: 1, maxLength: 1_000 });

/** Body of `POST /api/v1/training/bases`. */
export const BaseBody = Type.Object({
  model_id: Name,
  /** Such as `num>0`. */
  target: Name,
  /** Default `mlp`. */
  architecture: Type.Optional(Type.Union([Type.String(), Type.Record(Type.String(), Type.Unknown())])),
  /** What a site says of its columns, as in a describe round; nothing about fewer than ten rows. */
  statistics: Type.Record(Type.String(), Type.Unknown()),
  missing_markers: Type.Optional(Type.Record(Type.String(), Type.Array(Type.Union([Type.String(), Type.Number()])))),
  exclude: Type.Optional(Type.Array(Type.String(), { maxItems: 10_000 })),
  seed: Type.Optional(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 })),
});
export type BaseBody = Static<typeof BaseBody>;

export interface OpenBasesDependencies {
  readonly database: Database;
  readonly objects: ObjectStore;
  readonly registry: TrainingRegistry;
  readonly sessions: SessionService;
  readonly clientFormats: ClientFormats | undefined;
}

/**
 * Makes the first version of a model from what one client says of its columns: the rule for everybody after it. A model
 * that has a version keeps it, and it is the answer.
 *
 * @throws `model_not_found`; `invalid_input`, `data_mismatch` for statistics without the target or usable columns
 */
export async function firstBase(on: OpenBasesDependencies, body: BaseBody, caller: Caller): Promise<JsonObject> {
  const model = await on.sessions.model(caller.organizationId, body.model_id);
  const existing = await on.registry.baseFor(model.id, undefined);
  if (existing !== undefined) return answer(on, model.id, existing.versionId, false);
  const { config } = parseSessionConfig({
    model_id: model.id,
    target: body.target,
    architecture: body.architecture ?? model.architecture ?? 'mlp',
    missing_markers: body.missing_markers ?? {},
    exclude: body.exclude ?? [],
    seed: body.seed ?? 0,
  });
  const statistics = readStatistics(body.statistics);
  requireUsable(statistics, body.target);
  const sites: SiteEntry[] = [{ deviceId: caller.name, name: caller.name, statistics }];
  const { spec, architecture, inputWidth, warnings } = agreeOnFeatures(config, sites, false);
  const weights = encodeWeights(initialWeights(architecture, inputWidth, config.seed));
  const stored = await storeBytes(on.objects, 'checkpoints', weights);
  const checkpoint = { id: randomUUID(), ...stored };
  const lineage: JsonObject = { initial: true, seed: config.seed, architecture, feature_spec_hash: spec.hash };
  const created = await on.database.transact(async (transaction) => {
    await transaction
      .insertInto('checkpoints')
      .values({
        id: checkpoint.id,
        organization_id: caller.organizationId,
        session_id: null,
        round_id: null,
        base_checkpoint_id: null,
        object_key: stored.objectKey,
        sha256: stored.sha256,
        size_bytes: stored.sizeBytes,
        strategy: null,
        strategy_state_key: null,
        strategy_state_sha256: null,
        lineage: JSON.stringify(lineage),
      })
      .execute();
    const version = await on.registry.createVersionFromCheckpoint(
      {
        modelId: model.id,
        requestedVersion: null,
        baseVersionId: null,
        checkpoint,
        document: modelDocument(architecture, inputWidth, spec),
        lineage,
        metrics: {},
        publish: true,
        // The same for all who begin this model at once: the first one's columns decide.
        sessionId: `base-of-${model.id}`,
      },
      transaction,
    );
    await on.clientFormats?.(version.versionId, transaction);
    return version;
  });
  await on.registry.setArchitecture(model.id, architecture, body.target);
  return { ...(await answer(on, model.id, created.versionId, true)), warnings: warnings.slice(0, 100) };
}

async function answer(
  { database }: OpenBasesDependencies,
  modelId: string,
  versionId: string,
  created: boolean,
): Promise<JsonObject> {
  const row = await database.kysely
    .selectFrom('versions')
    .select(['version', 'status'])
    .where('id', '=', versionId)
    .executeTakeFirst();
  if (row === undefined) throw new OctomilError('internal', `version ${versionId} is gone`);
  return { model_id: modelId, version: row.version, status: row.status, version_id: versionId, created };
}
