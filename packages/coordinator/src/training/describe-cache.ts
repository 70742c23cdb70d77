import { createHash, randomUUID } from 'node:crypto';
import { imageSizeOf } from '@octomil/shared/models';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import type { SelectedDevice } from './selection.js';
import type { SessionConfig } from './session-config.js';

/** Identifies a question about columns: another target or other markers get another answer. */
export function questionHash(config: SessionConfig): string {
  const markers = Object.entries(config.missingMarkers).sort(([a], [b]) => (a < b ? -1 : 1));
  const imageShape = config.architecture === null ? undefined : imageSizeOf(config.architecture);
  const question = JSON.stringify({
    version: 1,
    target: config.target,
    markers,
    exclude: [...config.exclude].sort(),
    ...(imageShape === undefined ? {} : { imageShape }),
    // Without hints the question stays what it was.
    ...(config.hints === undefined ? {} : { hints: Object.entries(config.hints).sort(([a], [b]) => (a < b ? -1 : 1)) }),
  });
  return createHash('sha256').update(question).digest('hex');
}

/** Answers that sites gave before about the very data they hold now. */
export async function cachedStatistics(
  database: Database,
  config: SessionConfig,
  devices: readonly SelectedDevice[],
): Promise<{ assignmentId: string; updateId: string; deviceId: string; statistics: JsonObject; sha256: string }[]> {
  const digests = new Map(
    devices.flatMap(({ id, eligibility: { dataSet } }) =>
      dataSet === undefined || dataSet.digest === '' ? [] : [[id, dataSet] as const],
    ),
  );
  if (digests.size === 0) return [];
  const rows = await database.kysely
    .selectFrom('site_statistics')
    .select(['device_id', 'data_set', 'digest', 'statistics'])
    .where('device_id', 'in', [...digests.keys()])
    .where('question_hash', '=', questionHash(config))
    .execute();
  return rows
    .filter((row) => {
      const held = digests.get(row.device_id);
      return held?.name === row.data_set && held.digest === row.digest;
    })
    .map((row) => ({
      assignmentId: randomUUID(),
      updateId: randomUUID(),
      deviceId: row.device_id,
      statistics: row.statistics,
      sha256: row.digest,
    }));
}

/** Keeps an answer for the next session that asks the same. */
export async function keepStatistics(
  database: Database,
  config: SessionConfig,
  answer: { deviceId: string; dataSet: string; digest: string; statistics: JsonObject },
): Promise<void> {
  await database.kysely
    .insertInto('site_statistics')
    .values({
      device_id: answer.deviceId,
      data_set: answer.dataSet,
      digest: answer.digest,
      question_hash: questionHash(config),
      statistics: JSON.stringify(answer.statistics),
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}
