/**
 * Every failure that Octomil can name: its HTTP status, its gRPC status and whether a caller may try again.
 *
 * The first block is the contract of the published clients (their spelling, category and retry class);
 * the second is ours, for training and for running the system.
 */

/** When a caller may repeat the request. `conditional` means: after mending or waiting for what the message names. */
export type RetryClass = 'never' | 'immediate_safe' | 'backoff_safe' | 'conditional';

/** gRPC status codes by their number (grpc/grpc, doc/statuscodes.md). */
export const GRPC = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

export interface CodeEntry {
  readonly http: number;
  readonly grpc: (typeof GRPC)[keyof typeof GRPC];
  readonly category: string;
  readonly retry: RetryClass;
}

const entry = (http: number, grpc: CodeEntry['grpc'], category: string, retry: RetryClass): CodeEntry => ({
  http,
  grpc,
  category,
  retry,
});

export const ERROR_CODES = {
  // The published clients' contract.
  invalid_api_key: entry(401, GRPC.UNAUTHENTICATED, 'auth', 'never'),
  authentication_failed: entry(401, GRPC.UNAUTHENTICATED, 'auth', 'never'),
  forbidden: entry(403, GRPC.PERMISSION_DENIED, 'auth', 'never'),
  device_not_registered: entry(404, GRPC.NOT_FOUND, 'auth', 'never'),
  token_expired: entry(401, GRPC.UNAUTHENTICATED, 'auth', 'never'),
  device_revoked: entry(403, GRPC.PERMISSION_DENIED, 'auth', 'never'),
  network_unavailable: entry(503, GRPC.UNAVAILABLE, 'network', 'backoff_safe'),
  server_error: entry(500, GRPC.INTERNAL, 'network', 'backoff_safe'),
  request_timeout: entry(504, GRPC.DEADLINE_EXCEEDED, 'network', 'conditional'),
  rate_limited: entry(429, GRPC.RESOURCE_EXHAUSTED, 'network', 'conditional'),
  invalid_input: entry(400, GRPC.INVALID_ARGUMENT, 'input', 'never'),
  unsupported_modality: entry(422, GRPC.INVALID_ARGUMENT, 'input', 'never'),
  context_too_large: entry(413, GRPC.INVALID_ARGUMENT, 'input', 'never'),
  model_not_found: entry(404, GRPC.NOT_FOUND, 'catalog', 'never'),
  model_disabled: entry(403, GRPC.PERMISSION_DENIED, 'catalog', 'never'),
  version_not_found: entry(404, GRPC.NOT_FOUND, 'catalog', 'never'),
  download_failed: entry(502, GRPC.UNAVAILABLE, 'download', 'backoff_safe'),
  checksum_mismatch: entry(422, GRPC.DATA_LOSS, 'download', 'conditional'),
  insufficient_storage: entry(507, GRPC.RESOURCE_EXHAUSTED, 'device', 'conditional'),
  insufficient_memory: entry(503, GRPC.RESOURCE_EXHAUSTED, 'device', 'never'),
  runtime_unavailable: entry(503, GRPC.UNAVAILABLE, 'device', 'never'),
  accelerator_unavailable: entry(503, GRPC.UNAVAILABLE, 'device', 'never'),
  policy_denied: entry(403, GRPC.PERMISSION_DENIED, 'policy', 'never'),
  model_load_failed: entry(503, GRPC.UNAVAILABLE, 'runtime', 'conditional'),
  inference_failed: entry(503, GRPC.UNAVAILABLE, 'runtime', 'conditional'),
  stream_interrupted: entry(503, GRPC.UNAVAILABLE, 'runtime', 'immediate_safe'),
  training_failed: entry(500, GRPC.INTERNAL, 'training', 'conditional'),
  training_not_supported: entry(422, GRPC.UNIMPLEMENTED, 'training', 'never'),
  weight_upload_failed: entry(503, GRPC.UNAVAILABLE, 'training', 'backoff_safe'),
  assignment_not_found: entry(404, GRPC.NOT_FOUND, 'control', 'never'),
  cancelled: entry(499, GRPC.CANCELLED, 'lifecycle', 'never'),
  unknown: entry(500, GRPC.UNKNOWN, 'unknown', 'never'),

  // Ours.
  not_found: entry(404, GRPC.NOT_FOUND, 'catalog', 'never'),
  conflict: entry(409, GRPC.ALREADY_EXISTS, 'state', 'never'),
  wrong_state: entry(409, GRPC.FAILED_PRECONDITION, 'state', 'never'),
  too_large: entry(413, GRPC.RESOURCE_EXHAUSTED, 'input', 'never'),
  enrollment_token_invalid: entry(401, GRPC.UNAUTHENTICATED, 'auth', 'never'),
  enrollment_token_used: entry(409, GRPC.ALREADY_EXISTS, 'auth', 'never'),
  credential_in_use: entry(409, GRPC.FAILED_PRECONDITION, 'auth', 'conditional'),
  superseded: entry(409, GRPC.ABORTED, 'control', 'never'),
  round_closed: entry(409, GRPC.FAILED_PRECONDITION, 'training', 'never'),
  update_rejected: entry(422, GRPC.INVALID_ARGUMENT, 'training', 'never'),
  insufficient_devices: entry(409, GRPC.FAILED_PRECONDITION, 'training', 'conditional'),
  insufficient_updates: entry(409, GRPC.FAILED_PRECONDITION, 'training', 'conditional'),
  ticket_invalid: entry(403, GRPC.PERMISSION_DENIED, 'transfer', 'never'),
  ticket_expired: entry(410, GRPC.FAILED_PRECONDITION, 'transfer', 'conditional'),
  transfer_incomplete: entry(409, GRPC.FAILED_PRECONDITION, 'transfer', 'conditional'),
  data_unreadable: entry(422, GRPC.FAILED_PRECONDITION, 'data', 'never'),
  data_mismatch: entry(422, GRPC.FAILED_PRECONDITION, 'data', 'never'),
  too_few_rows: entry(422, GRPC.FAILED_PRECONDITION, 'data', 'never'),
  corrupt_file: entry(422, GRPC.DATA_LOSS, 'data', 'never'),
  config_invalid: entry(500, GRPC.FAILED_PRECONDITION, 'configuration', 'never'),
  store_locked: entry(503, GRPC.UNAVAILABLE, 'configuration', 'conditional'),
  port_in_use: entry(503, GRPC.UNAVAILABLE, 'configuration', 'conditional'),
  schema_newer: entry(503, GRPC.FAILED_PRECONDITION, 'configuration', 'never'),
  format_not_ready: entry(404, GRPC.NOT_FOUND, 'catalog', 'conditional'),
  conversion_failed: entry(422, GRPC.FAILED_PRECONDITION, 'catalog', 'never'),
  activation_failed: entry(500, GRPC.INTERNAL, 'device', 'conditional'),
  conditions_not_met: entry(409, GRPC.FAILED_PRECONDITION, 'device', 'conditional'),
  gate_breached: entry(409, GRPC.FAILED_PRECONDITION, 'rollout', 'never'),
  internal: entry(500, GRPC.INTERNAL, 'internal', 'backoff_safe'),
} as const satisfies Record<string, CodeEntry>;

export type ErrorCode = keyof typeof ERROR_CODES;

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERROR_CODES, value);
}
