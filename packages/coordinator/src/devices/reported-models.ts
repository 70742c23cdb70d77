import { OctomilError } from '@octomil/shared/errors';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { DesiredModelFacts, ReportedModel } from './desired-source.js';

/** One model as a published client reports it, in an observed state or the inventory of a sync. */
export interface WireReport {
  readonly modelId: string;
  readonly status: string;
  readonly version: string | null;
  readonly activeVersion: string | null;
  readonly problem: ReportedModel['problem'];
}

/** Their words for our states; what is unknown is `pending`, for nothing can be concluded from it. */
const STATES: Readonly<Record<string, string>> = {
  active: 'active',
  activated: 'active',
  running: 'active',
  serving: 'active',
  loaded: 'active',
  installed: 'waiting',
  ready: 'waiting',
  staged: 'waiting',
  downloaded: 'waiting',
  verified: 'waiting',
  waiting: 'waiting',
  downloading: 'downloading',
  installing: 'downloading',
  verifying: 'downloading',
  failed: 'failed',
  error: 'failed',
  corrupt: 'failed',
  removed: 'removed',
  deleted: 'removed',
  uninstalled: 'removed',
  evicted: 'removed',
};
const MAX_MODELS = 1000;
const MAX_TEXT_LENGTH = 200;

/** @throws `invalid_input` naming the entry and its field */
export function readReports(models: readonly unknown[], field: string): WireReport[] {
  if (models.length > MAX_MODELS) {
    throw new OctomilError('invalid_input', `${field} has ${models.length} entries, more than ${MAX_MODELS}`);
  }
  return models.map((entry, index) => {
    const given = typeof entry === 'object' && entry !== null ? (entry as Record<string, unknown>) : {};
    const text = (...names: string[]): string | null => {
      const name = names.find((candidate) => given[candidate] !== undefined && given[candidate] !== null);
      if (name === undefined) return null;
      const value = given[name];
      if (typeof value === 'string' && value.length <= MAX_TEXT_LENGTH && value.isWellFormed()) return value;
      throw new OctomilError(
        'invalid_input',
        `${field}[${index}].${name} must be text of at most ${MAX_TEXT_LENGTH} characters`,
        { details: { field: `${field}[${index}].${name}` } },
      );
    };
    const modelId = text('modelId', 'model_id');
    if (modelId === null) {
      throw new OctomilError('invalid_input', `${field}[${index}].modelId is missing`, {
        details: { field: `${field}[${index}].modelId` },
      });
    }
    const code = text('errorCode', 'error_code');
    const said = typeof given['errorMessage'] === 'string' ? given['errorMessage'] : '';
    // The cut may go through a pair of surrogates, half of which PostgreSQL does not take.
    const message = said.slice(0, MAX_TEXT_LENGTH).toWellFormed();
    return {
      modelId,
      status: text('status') ?? 'unknown',
      version: text('installedVersion', 'installed_version', 'version'),
      activeVersion: text('activeVersion', 'active_version'),
      problem: code === null && message === '' ? null : { code: code ?? 'unknown', message },
    };
  });
}

/** Puts ids in place of names and versions. A model that the organization does not have is left out. */
export async function resolveReports(
  database: Database,
  organizationId: string,
  reports: readonly WireReport[],
  desired: readonly DesiredModelFacts[],
): Promise<ReportedModel[]> {
  if (reports.length === 0) return [];
  const words = reports.map(({ modelId }) => modelId);
  const versions = reports.flatMap(({ version, activeVersion }) => [version ?? '', activeVersion ?? '']);
  const { rows } = await sql<{ id: string; name: string; versions: { id: string; version: string }[] | null }>`
    select m.id, m.name, (select json_agg(json_build_object('id', v.id, 'version', v.version)) from versions v
      where v.model_id = m.id and v.version = any(${versions}::text[])) as versions
    from models m where m.organization_id = ${organizationId}
      and (m.id = any(${words}::text[]) or m.name = any(${words}::text[]))`.execute(database.kysely);
  const resolved = new Map<string, ReportedModel>();
  for (const report of reports) {
    const model = rows.find(({ id }) => id === report.modelId) ?? rows.find(({ name }) => name === report.modelId);
    if (model === undefined) continue;
    const versionId = (version: string | null): string | null =>
      model.versions?.find((known) => known.version === version)?.id ?? null;
    const wanted = desired.find(({ modelId }) => modelId === model.id);
    const activeVersionId = versionId(report.activeVersion);
    const installed = versionId(report.version) ?? activeVersionId;
    const state = STATES[report.status.toLowerCase()] ?? (activeVersionId === null ? 'pending' : 'active');
    resolved.set(model.id, {
      modelId: model.id,
      versionId: installed,
      rolloutId: wanted !== undefined && wanted.versionId === installed ? wanted.rolloutId : null,
      state,
      activeVersionId: activeVersionId ?? (state === 'active' ? installed : null),
      problem: report.problem,
    });
  }
  return [...resolved.values()];
}
