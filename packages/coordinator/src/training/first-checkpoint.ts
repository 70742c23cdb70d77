import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Architecture, initialWeights } from '@octomil/shared/models';
import type { ObjectStore } from '@octomil/shared/storage';
import { encodeWeights } from '@octomil/shared/tensors';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import { storeBytes } from './object-keys.js';
import type { StoredFile } from './ports.js';
import type { PreparedSession } from './prepare-session.js';
import type { ResolvedConfig } from './round-facts.js';

/** The row that the first round trains from; none while the columns are not known. */
export async function firstCheckpoint(
  on: { readonly database: Database; readonly objects: ObjectStore },
  { base, config, confirmed }: Pick<PreparedSession, 'base' | 'config' | 'confirmed'>,
  organizationId: string,
): Promise<string | null> {
  if (base?.checkpointId != null) return base.checkpointId;
  if (base === undefined && (config.describes || config.dryRun || config.architecture === null)) return null;
  const stored: StoredFile =
    base?.weights ??
    (await storeBytes(
      on.objects,
      'checkpoints',
      encodeWeights(initialWeights(requireArchitecture(config), config.inputWidth, config.seed)),
    ));
  const lineage: JsonObject =
    base === undefined
      ? {
          initial: true,
          seed: config.seed,
          ...(confirmed === undefined ? {} : { feature_spec_hash: confirmed.spec.hash }),
        }
      : { version_id: base.versionId };
  const id = randomUUID();
  await on.database.kysely
    .insertInto('checkpoints')
    .values({
      id,
      organization_id: organizationId,
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
  return id;
}

function requireArchitecture({ architecture }: ResolvedConfig): Architecture {
  if (architecture !== null) return architecture;
  throw new OctomilError('internal', 'the session has no architecture');
}
