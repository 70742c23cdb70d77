import { createHash, randomUUID } from 'node:crypto';
import { imageSizeOf } from '@octomil/shared/models';
import { sql } from 'kysely';
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
  const held = [...digests].map(([deviceId, { name, digest }]) => ({ deviceId, name, digest }));
  const { rows } = await sql<{ deviceId: string; digest: string; statistics: JsonObject }>`
    select kept.device_id as "deviceId", kept.digest, kept.statistics
    from jsonb_to_recordset(${JSON.stringify(held)}::jsonb) as held("deviceId" text, name text, digest text)
    join site_statistics kept on kept.device_id = held."deviceId" and kept.data_set = held.name
      and kept.digest = held.digest
    where kept.question_hash = ${questionHash(config)}`.execute(database.kysely);
  return rows.map(({ deviceId, digest, statistics }) => ({
    assignmentId: randomUUID(),
    updateId: randomUUID(),
    deviceId,
    statistics,
    sha256: digest,
  }));
}

/** Keeps an answer for the next session that asks the same, in place of those about data that the site held before. */
export async function keepStatistics(
  database: Database,
  config: SessionConfig,
  answer: { deviceId: string; dataSet: string; digest: string; statistics: JsonObject },
): Promise<void> {
  const question = questionHash(config);
  await database.kysely
    .with('replaced', (query) =>
      query
        .deleteFrom('site_statistics')
        .where('device_id', '=', answer.deviceId)
        .where('data_set', '=', answer.dataSet)
        .where('digest', '<>', answer.digest)
        .where('question_hash', '=', question),
    )
    .insertInto('site_statistics')
    .values({
      device_id: answer.deviceId,
      data_set: answer.dataSet,
      digest: answer.digest,
      question_hash: question,
      statistics: JSON.stringify(answer.statistics),
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}
