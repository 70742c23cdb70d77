import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { BenchClient } from './session-run.js';

/** A JSON answer of the API. @throws OctomilError `internal` with what was answered instead */
export async function callApi(
  { apiBase, apiKey }: BenchClient,
  method: string,
  path: string,
  body?: object,
): Promise<Record<string, unknown>> {
  const response = await fetch(`${apiBase}${path}`, {
    method,
    headers: {
      authorization: `Bearer ${apiKey}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const answer = (await response.json()) as Record<string, unknown>;
  if (!response.ok) {
    throw new OctomilError('internal', `${method} ${path} answered ${response.status}: ${JSON.stringify(answer)}`);
  }
  return answer;
}

export interface SeededVersion {
  readonly versionId: string;
  readonly version: string;
  /** Of its only file. */
  readonly sha256: string;
}

/** Uploads random bytes as a version and publishes it. */
export async function uploadVersion(
  client: BenchClient,
  modelId: string,
  version: string,
  sizeBytes: number,
): Promise<SeededVersion> {
  const bytes = randomBytes(sizeBytes);
  const form = new FormData();
  form.set('version', version);
  form.set('file', new Blob([bytes]), 'model.pt');
  const response = await fetch(`${client.apiBase}/models/${modelId}/versions/upload`, {
    method: 'POST',
    headers: { authorization: `Bearer ${client.apiKey}` },
    body: form,
  });
  if (!response.ok) throw new OctomilError('internal', `the upload was answered ${await response.text()}`);
  const { id } = (await response.json()) as { id: string };
  await callApi(client, 'POST', `/models/${modelId}/versions/${version}/publish`);
  return { versionId: id, version, sha256: createHash('sha256').update(bytes).digest('hex') };
}

export interface SeededDevice {
  readonly id: string;
  /** In place of an enrolment: ten thousand of those are another benchmark. */
  readonly credential: string;
  readonly placement: number;
}

export function makeDevice(): SeededDevice {
  const id = randomUUID();
  const secret = randomBytes(32).toString('base64url');
  return { id, credential: `odc_${id.replaceAll('-', '')}_${secret}`, placement: Math.random() };
}

/** Rows of devices as an enrolment leaves them, for PostgreSQL's `json_to_recordset`. */
export const INSERT_DEVICES = `
  insert into devices (id, organization_id, device_identifier, credential_hash, placement)
  select id, (select id from organizations limit 1), 'simulated-' || id, hash, placement
  from json_to_recordset($1::text::json) as made(id text, hash text, placement double precision)`;

export function deviceRows(devices: readonly SeededDevice[]): string {
  return JSON.stringify(
    devices.map(({ id, credential, placement }) => ({
      id,
      hash: createHash('sha256').update(credential).digest('hex'),
      placement,
    })),
  );
}
