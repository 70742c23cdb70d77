import { OctomilClientError } from '../client-error.js';
import type { HttpClient } from '../http-client.js';
import type { FilterRecord } from './filters.js';
import type { ClientUpdateResult } from './options.js';

export interface Update {
  readonly model: string;
  readonly version: string;
  readonly bytes: Blob | Uint8Array;
  readonly sampleCount: number;
  readonly metrics: Readonly<Record<string, unknown>>;
  readonly updateFormat: 'weights' | 'delta';
  readonly roundId?: string | undefined;
  readonly filters?: readonly FilterRecord[];
  readonly signal: AbortSignal | undefined;
}

/** Header lines of a request are limited to 16 KiB in all. */
const MAX_METRICS_CHARACTERS = 8_000;

/** @throws OctomilClientError `update_rejected` for weights that do not fit the model, `too_large`, `invalid_input` */
export async function sendUpdate(http: HttpClient, deviceId: string, upload: Update): Promise<ClientUpdateResult> {
  const { model, version, bytes, sampleCount, metrics, updateFormat, roundId, signal } = upload;
  if (!Number.isSafeInteger(sampleCount) || sampleCount < 0) {
    throw new OctomilClientError(
      'invalid_input',
      `sampleCount is ${sampleCount}; it must be a whole number of 0 or more`,
    );
  }
  const query = {
    model_id: model,
    version,
    device_id: deviceId,
    sample_count: sampleCount,
    update_format: updateFormat,
    round_id: roundId,
  };
  const body = bytes instanceof Blob ? bytes : new Blob([bytes as Uint8Array<ArrayBuffer>]);
  const answer = await http.json<Record<string, unknown>>('POST', '/training/updates', {
    ...{ query, body, signal },
    headers: { 'content-type': 'application/octet-stream', 'x-octomil-metrics': headerText(metrics) },
    // A megabyte per second at least.
    timeoutMs: Math.max(120_000, body.size / 1_000),
  });
  return {
    updateId: String(answer['update_id']),
    status: answer['status'] === 'accepted' ? 'accepted' : 'rejected',
    reason: typeof answer['reason'] === 'string' ? answer['reason'] : null,
    sampleCount,
    metrics,
    version,
    roundId: String(answer['round_id']),
    filters: upload.filters ?? [],
  };
}

/** Header lines hold ASCII. @throws OctomilClientError `invalid_input` for more than fits */
function headerText(metrics: Readonly<Record<string, unknown>>): string {
  const text = JSON.stringify(metrics).replaceAll(
    /[^\x20-\x7e]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  if (text.length <= MAX_METRICS_CHARACTERS) return text;
  throw new OctomilClientError(
    'invalid_input',
    `metrics have ${text.length} characters as JSON; at most ${MAX_METRICS_CHARACTERS} are sent with an update`,
  );
}
