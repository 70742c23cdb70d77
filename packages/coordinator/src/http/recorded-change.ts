import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Kysely } from 'kysely';
import type { Database } from '../database/database.js';
import type { Tables } from '../database/tables.js';
import type { App } from './app.js';

/** What a request is going to be answered with. */
export interface Outcome {
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** The answer before it becomes text. */
  readonly answer: unknown;
  readonly text: string;
}

/** Stores what is kept of an outcome, in the transaction of the change; what it returns is called after the commit. */
export type OutcomeRecorder = (outcome: Outcome, transaction: Kysely<Tables>) => Promise<() => void>;

declare module 'fastify' {
  interface FastifyInstance {
    /** In the order in which they were added. */
    outcomeRecorders: OutcomeRecorder[];
  }
}

export function registerOutcomeRecorders(app: App): void {
  app.decorate('outcomeRecorders', []);
}

/**
 * Makes a change in one transaction with its audit entry and its answer under an idempotency key: one wait for the disk
 * instead of one for each, and no change without its entry. For changes of few statements; those that do not go through
 * here are recorded before they are answered, in one commit after their own.
 *
 * @param reply with the status code that the answer will have
 * @param work makes the change, answers what is sent; run again when PostgreSQL asks for it
 */
export async function commitChange<T>(
  request: FastifyRequest,
  reply: FastifyReply,
  database: Database,
  work: (transaction: Kysely<Tables>) => Promise<T>,
): Promise<T> {
  const { answer, committed } = await database.transact(async (transaction) => {
    const answer = await work(transaction);
    const outcome = { request, reply, answer, text: JSON.stringify(answer) };
    const committed: (() => void)[] = [];
    for (const record of request.server.outcomeRecorders) committed.push(await record(outcome, transaction));
    return { answer, committed };
  });
  for (const tell of committed) tell();
  return answer;
}
