import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { AuditEntry } from './audit-log.js';

/** One line of the log. */
export type AuditRecord = AuditEntry & { readonly at: string };

export interface AuditFilter {
  readonly kind?: string | undefined;
  readonly federation?: string | undefined;
  readonly model?: string | undefined;
  readonly dataSet?: string | undefined;
  /** Entries at or after it. */
  readonly sinceMs?: number | undefined;
  /** The newest ones. Default: all. */
  readonly limit?: number | undefined;
}

/**
 * What left the site, oldest first, the renamed files included. A line that was cut by a power failure is passed over:
 * what it announced did not leave.
 *
 * @param path of the newest file
 */
export async function readAudit(path: string, filter: AuditFilter = {}): Promise<AuditRecord[]> {
  const name = basename(path);
  const ages = (await readdir(dirname(path)).catch(() => [])).flatMap((file) => {
    if (file === name) return [0];
    const age = file.startsWith(`${name}.`) ? Number(file.slice(name.length + 1)) : Number.NaN;
    return Number.isInteger(age) ? [age] : [];
  });
  const found: AuditRecord[] = [];
  for (const age of ages.sort((a, b) => b - a)) {
    const text = await readFile(join(dirname(path), age === 0 ? name : `${name}.${age}`), 'utf8');
    found.push(
      ...text
        .split('\n')
        .flatMap(recordOf)
        .filter((record) => matches(record, filter)),
    );
  }
  return filter.limit === undefined ? found : found.slice(-filter.limit);
}

function recordOf(line: string): AuditRecord[] {
  try {
    return line === '' ? [] : [JSON.parse(line) as AuditRecord];
  } catch {
    return [];
  }
}

function matches(record: AuditRecord, { kind, federation, model, dataSet, sinceMs }: AuditFilter): boolean {
  return (
    (kind === undefined || record.kind === kind) &&
    (federation === undefined || record.federation === federation) &&
    (model === undefined || record.model === model) &&
    (dataSet === undefined || record.dataSet === dataSet) &&
    (sinceMs === undefined || Date.parse(record.at) >= sinceMs)
  );
}
