import type { ColumnType, Generated } from 'kysely';
import type { Json, JsonObject, NullableTimestamp, Timestamp } from './column-types.js';

export interface OrganizationsTable {
  id: string;
  name: string;
  created_at: Timestamp;
}

export interface ApiKeysTable {
  id: string;
  organization_id: string;
  name: string;
  /** First characters, to tell keys apart in a list. */
  prefix: string;
  /** SHA-256 of the key, hexadecimal. Keys hold 256 random bits, so a slow hash would add nothing. */
  key_hash: string;
  /** Signs the addresses made for this key. Unlike the hash, nobody outside can compute it. */
  signing_key: Generated<string>;
  scopes: Json<string[]>;
  created_at: Timestamp;
  last_used_at: NullableTimestamp;
  revoked_at: NullableTimestamp;
}

export interface EnrollmentTokensTable {
  id: string;
  organization_id: string;
  token_hash: string;
  labels: Json<Record<string, string>>;
  /** The only device it enrols; null for any device that is new. */
  device_identifier: string | null;
  expires_at: Timestamp;
  used_at: NullableTimestamp;
  used_by_device_id: string | null;
  created_at: Timestamp;
}

export interface DevicesTable {
  id: string;
  organization_id: string;
  device_identifier: string;
  credential_hash: string | null;
  /** Uniform in [0, 1), for selection by ranges and for rollouts. */
  placement: number;
  /** What the site says of itself, overlaid by `enrolled_labels`. */
  labels: Json<Record<string, string>>;
  /** What the organization wrote on the token. */
  enrolled_labels: ColumnType<Record<string, string>, string | undefined, string>;
  capabilities: Json<JsonObject>;
  /** `SiteSummary` of the last hello: data sets (name, rounded row count, digest, problem) and policy rules. */
  site: Json<JsonObject>;
  agent_version: string | null;
  status: 'active' | 'revoked';
  /** `shared`: registered with the organization's key, as published clients do; a federation may refuse those. */
  identity: Generated<'enrolled' | 'shared'>;
  /** What a published client says of its machine (`platform`, `os_version`, `battery_pct` …). */
  facts: ColumnType<JsonObject, string | undefined, string>;
  /** Inventory that a published client reports; agents report rows of `device_models`. */
  installed: ColumnType<JsonObject, string | undefined, string>;
  /** Secret by which download addresses are signed for the device; another one once it is revoked. */
  download_key: Generated<string>;
  session_epoch: Generated<number>;
  /** Random per agent process; null while no session holds the device. */
  session_process_id: string | null;
  session_host: string | null;
  session_coordinator_id: string | null;
  /** When the session in hand was opened. */
  session_since: NullableTimestamp;
  lease_until: NullableTimestamp;
  last_seen_at: NullableTimestamp;
  created_at: Timestamp;
  revoked_at: NullableTimestamp;
}

export interface DeviceGroupsTable {
  id: string;
  organization_id: string;
  name: string;
  description: string;
  created_at: Timestamp;
}

export interface DeviceGroupMembersTable {
  group_id: string;
  device_id: string;
  added_at: Timestamp;
}

/** Short-lived access token and the refresh token that buys the next pair. Hashes only. */
export interface DeviceTokensTable {
  id: string;
  device_id: string;
  /** The same for all pairs that one bootstrap led to. */
  chain_id: string;
  access_hash: string;
  refresh_hash: string;
  scopes: Json<string[]>;
  access_ttl_seconds: number;
  access_expires_at: Timestamp;
  refresh_expires_at: Timestamp;
  /** The pair that its refresh bought; a second use of the same refresh token revokes the whole chain. */
  replaced_by: string | null;
  reason: string | null;
  created_at: Timestamp;
  revoked_at: NullableTimestamp;
}

export interface FederationsTable {
  id: string;
  organization_id: string;
  name: string;
  description: string;
  /** Whether devices that were only registered, under an organization's key, may take part. */
  shared_identities: Generated<boolean>;
  created_at: Timestamp;
}

export interface FederationMembersTable {
  federation_id: string;
  organization_id: string;
  status: 'invited' | 'active';
  invited_by: string | null;
  joined_at: NullableTimestamp;
  created_at: Timestamp;
}

/** A model of one member that the whole federation may read. */
export interface FederationModelsTable {
  federation_id: string;
  model_id: string;
  /** The organization that shared it: its owner. */
  shared_by: string;
  created_at: Timestamp;
}

/** Who changed what, from where. Never updated, never deleted by the product. */
export interface AuditEntriesTable {
  id: Generated<number>;
  organization_id: string;
  /** `key:<id>`, `device:<id>` or `coordinator`. */
  actor: string;
  /** Such as `POST /api/v1/models` or `rollout.rolled_back`. */
  action: string;
  /** Such as `models/<id>`. */
  resource: string;
  details: ColumnType<JsonObject, string | undefined, string>;
  remote_address: string | null;
  request_id: string | null;
  created_at: Timestamp;
}

/** The answer to a POST under its `Idempotency-Key`; without `status` it is still being worked on. */
export interface IdempotencyKeysTable {
  organization_id: string;
  caller: string;
  key: string;
  route: string;
  request_hash: string;
  status: number | null;
  body: string | null;
  locked_until: Timestamp;
  created_at: Timestamp;
}
