import type { DeviceRecord } from './device-records.js';

/** A device in answers of REST. */
export function deviceView(device: DeviceRecord): Record<string, unknown> {
  const { capabilities, site, facts } = device;
  return {
    id: device.id,
    device_id: device.id,
    device_identifier: device.identifier,
    org_id: device.organizationId,
    status: device.status,
    identity: device.identity,
    labels: device.labels,
    agent_version: device.agentVersion,
    host: device.host,
    last_seen_at: device.lastSeenAt?.toISOString() ?? null,
    created_at: device.createdAt.toISOString(),
    revoked_at: device.revokedAt?.toISOString() ?? null,
    platform: capabilities.platform ?? facts['platform'] ?? null,
    facts,
    trainers: capabilities.trainers ?? [],
    compute_backends: capabilities.computeBackends ?? [],
    data_sets: (site.dataSets ?? []).map(({ name, rowCount, format, problem }) => ({
      name,
      row_count: rowCount,
      format,
      problem: problem === '' ? null : problem,
    })),
    policy_rules: (site.policyRules ?? []).map(({ name, federations, models, dataSets }) => ({
      name,
      federations,
      models,
      data_sets: dataSets,
    })),
    // null: its agent does not say.
    paused: site.paused ?? null,
  };
}
