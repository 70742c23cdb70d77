import { camelNames } from '../wire-names.js';

/** A machine that trains, or runs models, or both. */
export interface Device {
  readonly id: string;
  readonly deviceIdentifier: string;
  /** `online`, `offline` or `revoked`. */
  readonly status: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly lastSeenAt: string | null;
  readonly [field: string]: unknown;
}

/** Which device. */
export interface OfDevice {
  /** Id or identifier. */
  readonly deviceId: string;
  readonly signal?: AbortSignal | undefined;
}

export function readDevice(value: unknown): Device {
  const fields = camelNames(value as Record<string, unknown>);
  return {
    ...fields,
    id: String(fields['id'] ?? fields['deviceId']),
    deviceIdentifier: String(fields['deviceIdentifier'] ?? ''),
    status: String(fields['status'] ?? ''),
    labels: (fields['labels'] ?? {}) as Record<string, string>,
    lastSeenAt: typeof fields['lastSeenAt'] === 'string' ? fields['lastSeenAt'] : null,
  };
}
