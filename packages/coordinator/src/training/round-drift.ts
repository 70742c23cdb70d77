import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { changesSince } from './drift-changes.js';
import type { RoundFacts } from './round-facts.js';
import type { AcceptedAnswer } from './round-store.js';
import { boundDrift, type DriftColumn, type DriftReport, driftBytes, readDrift } from './site-drift.js';

/** Sites whose first reports, of up to 200 columns each, are in memory together. */
const AT_ONCE = 500;

/**
 * What the sites of a train round told of their drift, by device identifier, each with what changed since its first report.
 *
 * @returns undefined where none told of any
 */
export async function driftOfRound(
  database: Database,
  facts: RoundFacts,
  answers: readonly AcceptedAnswer[],
): Promise<Readonly<Record<string, DriftReport>> | undefined> {
  const told = answers.flatMap(({ deviceId, deviceName, metrics }) => {
    const report = readDrift(metrics['drift']);
    return report === null ? [] : [{ deviceId, deviceName, report }];
  });
  if (told.length === 0) return undefined;
  const reports: [site: string, report: DriftReport][] = [];
  for (let from = 0; from < told.length; from += AT_ONCE) {
    const some = told.slice(from, from + AT_ONCE);
    const first = await firstReports(database, facts, some);
    for (const { deviceId, deviceName, report } of some) {
      const before = first.get(deviceId);
      reports.push([
        deviceName,
        before === undefined ? report : { ...report, changed: changesSince(before, report.columns) },
      ]);
    }
  }
  return boundDrift(reports, driftBytes(facts.config.rounds));
}

interface Told {
  readonly deviceId: string;
  readonly report: DriftReport;
}

/**
 * What each device first told under the same spec of the same data, in whichever session of the organization; what those
 * tell that have told nothing before is kept as theirs. By device, as another one may get its name. Safe to repeat for a
 * round: what was kept for this one is no earlier report.
 */
async function firstReports(
  { kysely }: Database,
  { id: roundId, organizationId, federation, featureSpec, config }: RoundFacts,
  told: readonly Told[],
): Promise<Map<string, readonly DriftColumn[]>> {
  // Without features there is nothing to drift from, whatever a site says.
  if (featureSpec === undefined) return new Map();
  const { rows } = await sql<{ deviceId: string; roundId: string; columns: readonly DriftColumn[] }>`
    select device_id as "deviceId", round_id as "roundId", columns from first_drift
    where feature_spec_hash = ${featureSpec.hash} and federation_id = ${federation.id}
      and organization_id = ${organizationId} and data_set = ${config.dataSet}
      and device_id = any(${told.map(({ deviceId }) => deviceId)}::text[])`.execute(kysely);
  const known = new Set(rows.map(({ deviceId }) => deviceId));
  const unknown = told.filter(({ deviceId }) => !known.has(deviceId));
  if (unknown.length > 0) {
    await sql`
      insert into first_drift (organization_id, federation_id, feature_spec_hash, data_set, device_id, round_id, columns)
      select ${organizationId}, ${federation.id}, ${featureSpec.hash}, ${config.dataSet}, told.device_id, ${roundId},
        told.columns::jsonb
      from unnest(${unknown.map(({ deviceId }) => deviceId)}::text[],
        ${unknown.map(({ report }) => JSON.stringify(report.columns))}::text[]) as told(device_id, columns)
      on conflict do nothing`.execute(kysely);
  }
  return new Map(rows.filter((row) => row.roundId !== roundId).map(({ deviceId, columns }) => [deviceId, columns]));
}
