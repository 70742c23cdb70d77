import type { Clock, Logger } from '@octomil/shared/runtime';
import pg from 'pg';
import { outsideAnyTransaction } from './transaction-guard.js';

type Receiver = (payload: string) => void;

interface Options {
  connectionString: string;
  logger: Logger;
  clock: Clock;
  random: () => number;
}

const MAX_DELAY_MS = 5_000;

/**
 * One connection for all channels, opened at the first `listen`. When it breaks it is opened again, after a random wait
 * that grows to 5 s, and every channel is listened to again. What was sent in between is lost: receivers re-read rows.
 */
export class PostgresListener {
  readonly #options: Options;
  readonly #receivers = new Map<string, Set<Receiver>>();
  readonly #stop = new AbortController();
  #connecting: Promise<pg.Client> | undefined;

  constructor(options: Options) {
    this.#options = options;
  }

  async listen(channel: string, receive: Receiver): Promise<() => Promise<void>> {
    const receivers = this.#receivers.get(channel) ?? new Set();
    const first = receivers.size === 0;
    receivers.add(receive);
    this.#receivers.set(channel, receivers);
    const client = await this.#client();
    if (first) await client.query(`listen ${pg.escapeIdentifier(channel)}`);
    return async () => {
      receivers.delete(receive);
      if (receivers.size > 0 || this.#receivers.get(channel) !== receivers) return;
      this.#receivers.delete(channel);
      if (this.#stop.signal.aborted) return;
      const current = await this.#client();
      await current.query(`unlisten ${pg.escapeIdentifier(channel)}`);
    };
  }

  async close(): Promise<void> {
    this.#stop.abort();
    const client = await this.#connecting?.catch(() => undefined);
    await client?.end();
  }

  #client(): Promise<pg.Client> {
    if (this.#connecting === undefined) {
      const connecting = this.#connect();
      this.#connecting = connecting;
      connecting.catch(() => {
        if (this.#connecting === connecting) this.#connecting = undefined;
      });
    }
    return this.#connecting;
  }

  async #connect(): Promise<pg.Client> {
    const { connectionString, logger } = this.#options;
    const client = new pg.Client({
      connectionString,
      keepAlive: true,
      connectionTimeoutMillis: 10_000,
      application_name: 'octomil-listen',
    });
    client.on('error', (error) => logger.warn({ error }, 'the connection for notifications broke'));
    client.on('notification', ({ channel, payload }) => this.#deliver(channel, payload ?? ''));
    await client.connect();
    for (const channel of this.#receivers.keys()) await client.query(`listen ${pg.escapeIdentifier(channel)}`);
    client.once('end', () => {
      if (this.#stop.signal.aborted) return;
      this.#connecting = this.#reconnect();
      // Listeners that ask for the client see the failure; nobody else has to.
      this.#connecting.catch(() => undefined);
    });
    return client;
  }

  async #reconnect(): Promise<pg.Client> {
    const { clock, random, logger } = this.#options;
    for (let delayMs = 50; ; delayMs = Math.min(delayMs * 2, MAX_DELAY_MS)) {
      await clock.sleep(delayMs * (0.5 + random()), this.#stop.signal);
      try {
        const client = await this.#connect();
        logger.info({}, 'listening to notifications again');
        return client;
      } catch (error) {
        logger.warn({ error, delayMs }, 'cannot listen to notifications yet');
      }
    }
  }

  #deliver(channel: string, payload: string): void {
    for (const receive of this.#receivers.get(channel) ?? []) {
      outsideAnyTransaction(() => {
        try {
          receive(payload);
        } catch (error) {
          this.#options.logger.error({ error, channel }, 'a receiver of notifications failed');
        }
      });
    }
  }
}
