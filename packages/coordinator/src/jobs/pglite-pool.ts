import { EventEmitter } from 'node:events';
import { setImmediate as yieldToEventLoop } from 'node:timers/promises';
import type { PGlite } from '@electric-sql/pglite';
import { INT8_OID, NUMERIC_OID } from '../database/number-parsers.js';

interface Result<R> {
  rows: R[];
  rowCount: number;
}

/** BullMQ converts these two types itself and expects pg's text. */
const asText = (text: string): string => text;
const PARSERS = { [INT8_OID]: asText, [NUMERIC_OID]: asText };

/**
 * Sends one statement (with parameters) or a script.
 *
 * PGlite answers within microtasks, so a worker that polls would starve every timer of the process: hence the yield.
 */
async function send<R>(pglite: PGlite, text: string, values?: readonly unknown[]): Promise<Result<R>> {
  await yieldToEventLoop();
  const result =
    values === undefined
      ? (await pglite.exec(text, { parsers: PARSERS })).at(-1)
      : await pglite.query(text, [...values], { parsers: PARSERS });
  const rows = (result?.rows ?? []) as R[];
  return { rows, rowCount: result?.affectedRows || rows.length };
}

/** What BullMQ takes for a connection of its own. All of them share the one session. */
class SharedClient extends EventEmitter {
  /** BullMQ turns on TCP keepalive; there is no socket here. */
  readonly connection = { stream: { setKeepAlive: (): void => undefined } };
  readonly #pglite: PGlite;
  readonly #unsubscribe: () => void;

  constructor(pglite: PGlite) {
    super();
    this.#pglite = pglite;
    // All notifications: BullMQ looks at the channel itself.
    this.#unsubscribe = pglite.onNotification((channel, payload) => {
      this.emit('notification', { channel, payload });
    });
  }

  query<R = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<Result<R>> {
    return send(this.#pglite, text, values);
  }

  release(): void {
    this.#unsubscribe();
  }

  async end(): Promise<void> {
    this.#unsubscribe();
  }
}

/** As much of `pg.Pool` as BullMQ's PostgreSQL backend uses, over the embedded database. */
export class PGlitePool extends EventEmitter {
  readonly options = { keepAlive: true, max: 10 };
  readonly #pglite: PGlite;

  constructor(pglite: PGlite) {
    super();
    // Every queue and worker adds a listener.
    this.setMaxListeners(0);
    this.#pglite = pglite;
  }

  query<R = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<Result<R>> {
    return send(this.#pglite, text, values);
  }

  async connect(): Promise<SharedClient> {
    return new SharedClient(this.#pglite);
  }

  async end(): Promise<void> {}
}
