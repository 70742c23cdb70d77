import { AsyncLocalStorage } from 'node:async_hooks';
import { OctomilError } from '@octomil/shared/errors';

interface Scope {
  /** True between BEGIN and the end of the work: only the transaction's own handle may be used. */
  inside: boolean;
}

const scopes = new AsyncLocalStorage<Scope | undefined>();

/** Whether the caller runs inside `Database.transact`. */
export function insideTransaction(): boolean {
  return scopes.getStore()?.inside === true;
}

/**
 * PGlite has one session: awaiting it, or a queue that lives on it, inside a transaction waits for ever.
 * PostgreSQL would survive, but code that passes its tests there must not hang elsewhere, so both refuse.
 *
 * @throws OctomilError `internal`
 */
export function refuseInsideTransaction(what: string): void {
  if (insideTransaction()) {
    throw new OctomilError(
      'internal',
      `${what} was used inside a transaction; use the transaction's own handle, and add jobs after it has committed`,
    );
  }
}

/** Runs a whole transaction: `work` is guarded, BEGIN and COMMIT around it are not. */
export function withTransactionScope<T>(
  run: (guarded: <R>(work: () => Promise<R>) => Promise<R>) => Promise<T>,
): Promise<T> {
  const scope: Scope = { inside: false };
  return scopes.run(scope, () =>
    run(async (work) => {
      scope.inside = true;
      try {
        return await work();
      } finally {
        scope.inside = false;
      }
    }),
  );
}

/** Whether a transaction may begin here: only `transact` and the migrations open one, so that none goes unguarded. */
export function insideTransactionScope(): boolean {
  return scopes.getStore() !== undefined;
}

/** Runs a callback as if from nowhere: a notification may arrive in the middle of somebody's query. */
export function outsideAnyTransaction<T>(run: () => T): T {
  return scopes.run(undefined, run);
}
