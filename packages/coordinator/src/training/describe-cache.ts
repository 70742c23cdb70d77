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

/** An answer that is kept; what it says stays in its row, since those of many sites are too much for a statement. */
export interface CachedAnswer {
  readonly assignmentId: string;
  readonly updateId: string;
  readonly deviceId: string;
  readonly dataSet: string;
  readonly digest: string;
}

/** Answers that sites gave before about the very data they hold now. */
export async function cachedAnswers(
  database: Database,
  config: SessionConfig,
  devices: readonly SelectedDevice[],
): Promise<CachedAnswer[]> {
  const held = devices.flatMap(({ id, eligibility: { dataSet } }) =>
    dataSet === undefined || dataSet.digest === ''
      ? []
      : [{ deviceId: id, dataSet: dataSet.name, digest: dataSet.digest }],
  );
  if (held.length === 0) return [];
  const { rows } = await sql<{ deviceId: string; dataSet: string; digest: string }>`
    select kept.device_id as "deviceId", kept.data_set as "dataSet", kept.digest
    from jsonb_to_recordset(${JSON.stringify(held)}::jsonb) as held("deviceId" text, "dataSet" text, digest text)
    join site_statistics kept on kept.device_id = held."deviceId" and kept.data_set = held."dataSet"
      and kept.digest = held.digest
    where kept.question_hash = ${questionHash(config)}`.execute(database.kysely);
  return rows.map((row) => ({ assignmentId: randomUUID(), updateId: randomUUID(), ...row }));
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
