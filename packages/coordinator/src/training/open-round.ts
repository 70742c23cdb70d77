import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { Tables } from '../database/tables.js';

/** A round that collects from whoever uploads. */
export interface Opening {
  readonly openFor: string;
  /** null: until somebody closes it. */
  readonly deadlineSeconds: number | null;
}

/** Name of the index that lets one round at a time collect for a model and base. */
export const OPEN_FOR_INDEX = 'rounds_open_for';

/** What uploads of open admission are for: a model, and the base by the digest of its weights. */
export function openKey(modelId: string, baseSha256: string): string {
  return `${modelId}:${baseSha256}`;
}

/** What opening a round sets. */
export function opened({ openFor, deadlineSeconds }: Opening): RawBuilder<unknown> {
  return sql`state = 'collecting', open_for = ${openFor}, started_at = now(), reason_code = null, reason = null,
    deadline_at = now() + make_interval(secs => ${deadlineSeconds}::float8)`;
}

/** Opens the round that this transaction has just inserted. */
export async function openRound(handle: Kysely<Tables>, roundId: string, opening: Opening): Promise<void> {
  await sql`update rounds set ${opened(opening)} where id = ${roundId}`.execute(handle);
}

export function alreadyOpen(cause: unknown): OctomilError {
  return new OctomilError(
    'conflict',
    'another round collects updates for this model and base version already; aggregate or cancel it first',
    { cause },
  );
}
