import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { TrainResult } from '@octomil/shared/training';
import type { AssignmentKey, PendingUpload, WorkContext } from '../state/journal.js';

/** What the journal keeps of an update that is made. */
export function pendingUpload(
  key: AssignmentKey,
  context: WorkContext,
  format: string,
  result: TrainResult,
  deadlineAtMs: number,
  elapsedMs: number,
  alsoTold: Readonly<Record<string, unknown>> = {},
): PendingUpload {
  const { update, sampleCount, trainLoss, evaluation, steps, backend, bestEpoch, personal, personalization, drift } =
    result;
  return {
    state: 'upload',
    key,
    context,
    format,
    path: update.path,
    sizeBytes: update.sizeBytes,
    sha256: update.sha256,
    sampleCount,
    metricsJson: JSON.stringify({
      ...{ trainLoss, evaluation, steps, backend, seconds: elapsedMs / 1_000 },
      ...{ bestEpoch, personal, personalization, drift },
      ...alsoTold,
    }),
    deadlineAtMs,
  };
}

/** Whether the update is still there as it was made. */
export async function isWhole({ path, sizeBytes, sha256 }: PendingUpload): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (found?.size !== sizeBytes) return false;
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1_048_576 })) hash.update(chunk as Buffer);
  return hash.digest('hex') === sha256;
}
