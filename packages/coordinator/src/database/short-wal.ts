import type { Clock, Logger } from '@octomil/shared/runtime';
import { type Kysely, sql } from 'kysely';
import { outsideAnyTransaction } from './transaction-guard.js';

const LOOK_EVERY_MS = 5_000;
/** About 0.2 s of replay at the next start. */
const MAX_WAL_BYTES = 16 * 1024 * 1024;

/**
 * Makes checkpoints. PostgreSQL embedded has no checkpointer process and makes none by itself while it runs: its log
 * would grow without bound, and the start after a kill would replay all of it (measured: 3.3 s for 350 MB).
 *
 * @returns ends it; resolves when nothing of it runs any more
 */
export function keepWalShort<T>(
  kysely: Kysely<T>,
  { clock, logger, maxWalBytes = MAX_WAL_BYTES }: { clock: Clock; logger: Logger; maxWalBytes?: number },
): () => Promise<void> {
  let stopped = false;
  let cancel = (): void => undefined;
  let looking: Promise<void> = Promise.resolve();
  const look = async (): Promise<void> => {
    try {
      const { rows } = await sql<{ bytes: number }>`
        select pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn)::float8 as bytes from pg_control_checkpoint()`.execute(
        kysely,
      );
      if ((rows[0]?.bytes ?? 0) > maxWalBytes) await sql`checkpoint`.execute(kysely);
    } catch (error) {
      if (!stopped) logger.warn({ error }, 'no checkpoint could be made; trying again');
    }
  };
  const schedule = (): void => {
    cancel = clock.after(LOOK_EVERY_MS, () => {
      looking = outsideAnyTransaction(look).then(() => {
        if (!stopped) schedule();
      });
    });
  };
  schedule();
  return async () => {
    stopped = true;
    cancel();
    await looking;
  };
}
