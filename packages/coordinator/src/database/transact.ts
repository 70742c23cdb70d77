import type { Clock } from '@octomil/shared/runtime';
import type { Kysely } from 'kysely';
import type { Tables } from './tables.js';
import { refuseInsideTransaction, withTransactionScope } from './transaction-guard.js';

/** SQLSTATEs after which the same transaction may succeed: serialization_failure and deadlock_detected. */
const RETRYABLE = new Set(['40001', '40P01']);
const MAX_ATTEMPTS = 6;

/** SQLSTATE of what pg or PGlite threw, also through Kysely's wrapping. */
export function sqlState(thrown: unknown): string | undefined {
  for (let error = thrown, depth = 0; typeof error === 'object' && error !== null && depth < 4; depth++) {
    if ('code' in error && typeof error.code === 'string' && /^[0-9A-Z]{5}$/.test(error.code)) return error.code;
    error = 'cause' in error ? error.cause : undefined;
  }
  return undefined;
}

/** Whether an insert or update met a unique index, and which. */
export function violatedUnique(thrown: unknown): string | undefined {
  if (sqlState(thrown) !== '23505') return undefined;
  const constraint = (thrown as { constraint?: unknown }).constraint;
  return typeof constraint === 'string' ? constraint : '';
}

/** Runs `work` in a transaction of `kysely`, again (after a short random wait) when PostgreSQL asks for it. */
export async function runTransaction<T>(
  kysely: Kysely<Tables>,
  work: (transaction: Kysely<Tables>) => Promise<T>,
  waiting: { clock: Clock; random: () => number },
): Promise<T> {
  refuseInsideTransaction('transact');
  for (let attempt = 1; ; attempt++) {
    try {
      return await withTransactionScope((guarded) =>
        kysely.transaction().execute((transaction) => guarded(() => work(transaction))),
      );
    } catch (error) {
      const state = sqlState(error);
      if (attempt >= MAX_ATTEMPTS || state === undefined || !RETRYABLE.has(state)) throw error;
      await waiting.clock.sleep(2 ** attempt * 5 * waiting.random());
    }
  }
}
