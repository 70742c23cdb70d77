import type { InferenceEvent } from '@octomil/inference/quality';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { Database } from '../database/database.js';
import { type EventSource, type OwnedEvent, storeEvents } from './event-store.js';

interface Waiting {
  readonly events: readonly OwnedEvent[];
  readonly resolve: (isNew: readonly boolean[]) => void;
  readonly reject: (error: unknown) => void;
}

/** Long enough to gather a burst: many devices send one event in a request of its own. */
const GATHER_MS = 25;
const MAX_ROWS = 1_000;
/** Beyond these, callers are asked to wait, and what the gateway itself reports is dropped. */
const MAX_WAITING = 20_000;

/** Stores what happened, the events of many requests in one transaction. */
export class EventIntake {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #waiting: Waiting[] = [];
  #count = 0;
  #writing: Promise<void> | undefined;

  constructor({ database, clock, logger }: { database: Database; clock: Clock; logger: Logger }) {
    this.#database = database;
    this.#clock = clock;
    this.#logger = logger;
  }

  /** Whether each was new, once they are durable. @throws OctomilError `rate_limited` when too many wait */
  store(source: EventSource, events: readonly InferenceEvent[]): Promise<readonly boolean[]> {
    if (this.#count + events.length > MAX_WAITING) {
      return Promise.reject(
        new OctomilError('rate_limited', `${this.#count} events wait to be stored; send these again later`, {
          retryAfterSeconds: 1,
        }),
      );
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ events: events.map((event) => ({ ...source, event })), resolve, reject });
      this.#count += events.length;
      this.#writing ??= this.#pause().then(() => this.#write());
    });
  }

  /** Stores without anybody waiting for it. */
  note(source: EventSource, event: InferenceEvent): void {
    this.store(source, [event]).catch((error: unknown) =>
      this.#logger.warn({ error, type: event.event_type }, 'an event of inference was lost'),
    );
  }

  /** Resolves once what came so far is stored. */
  async settle(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => this.#clock.after(GATHER_MS, resolve));
  }

  async #write(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#take();
      const events = batch.flatMap((one) => one.events);
      try {
        const isNew = await storeEvents(this.#database, events);
        let place = 0;
        for (const { events: own, resolve } of batch) {
          resolve(isNew.slice(place, place + own.length));
          place += own.length;
        }
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
      this.#count -= events.length;
    }
    this.#writing = undefined;
  }

  #take(): Waiting[] {
    let rows = 0;
    let requests = 0;
    while (requests < this.#waiting.length && (rows < MAX_ROWS || requests === 0)) {
      rows += this.#waiting[requests]?.events.length ?? 0;
      requests += 1;
    }
    return this.#waiting.splice(0, requests);
  }
}
