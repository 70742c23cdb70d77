import { type OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ProblemFields } from '../connection/problem.js';
import type { SessionLink } from '../session/session-link.js';

/** Plain fields of an `ObservedModel` message. */
export interface ObservedModelFields {
  readonly modelId: string;
  readonly versionId: string;
  readonly rolloutId: bigint;
  readonly state: string;
  readonly activeVersionId: string;
  readonly previousVersionId: string;
  readonly problem?: ProblemFields;
  readonly healthJson: string;
}

export interface ObservedReportOptions {
  /** Everything there is to say at the moment. */
  readonly snapshot: () => ObservedModelFields[];
  /** Writes down what is about to leave. @throws OctomilError `insufficient_storage`; then it does not leave */
  readonly audit: (models: readonly ObservedModelFields[]) => Promise<void>;
  /** What may be told all the same when it cannot be written down; undefined: nothing. */
  readonly unwritten: (
    models: readonly ObservedModelFields[],
    error: OctomilError,
  ) => readonly ObservedModelFields[] | undefined;
  /** The coordinator has it. */
  readonly onReceipt: (models: readonly ObservedModelFields[]) => void;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Between two reports of which only figures changed. Default 5 s. */
  readonly healthEveryMs?: number;
}

const HEALTH_EVERY_MS = 5_000;
/** Without a receipt it is said again: a coordinator that could not store it has forgotten it. */
const REPEAT_MS = 30_000;

/** Says what runs here, in full: after each Welcome, and after each change until the coordinator has it. */
export class ObservedReport {
  readonly #options: ObservedReportOptions;
  #link: SessionLink | undefined;
  /** What a receipt is awaited for. */
  #sent: readonly ObservedModelFields[] | undefined;
  #received = '';
  /** What was sent is not everything, which could not be written down. */
  #partial = false;
  /** Held back until a receipt comes or the figures' interval is over. */
  #dirty = false;
  #sending = false;
  #sentAtMs = Number.NEGATIVE_INFINITY;
  #callOffRepeat = (): void => undefined;
  #callOffHealth: (() => void) | undefined;

  constructor(options: ObservedReportOptions) {
    this.#options = options;
  }

  connected(link: SessionLink): void {
    this.disconnected();
    this.#link = link;
    this.#received = '';
    if (!this.#sending) void this.#send(link);
  }

  disconnected(): void {
    this.#callOffRepeat();
    this.#link = undefined;
    this.#sent = undefined;
    this.#dirty = false;
  }

  stop(): void {
    this.disconnected();
    this.#callOffHealth?.();
  }

  changed(what: 'state' | 'health'): void {
    const { clock, healthEveryMs = HEALTH_EVERY_MS } = this.#options;
    if (what === 'state') {
      this.#sendOrMark();
      return;
    }
    const dueMs = this.#sentAtMs + healthEveryMs - clock.now();
    this.#callOffHealth ??= clock.after(Math.max(0, dueMs), () => {
      this.#callOffHealth = undefined;
      this.#sendOrMark();
    });
  }

  /** The answer to what was said last. */
  receipt(): void {
    const sent = this.#sent;
    if (sent === undefined) return;
    if (!this.#partial) this.#callOffRepeat();
    this.#sent = undefined;
    this.#received = textOf(sent);
    this.#options.onReceipt(sent);
    if (this.#dirty) this.#sendOrMark();
  }

  #sendOrMark(): void {
    const link = this.#link;
    if (link === undefined) return;
    this.#dirty = true;
    if (this.#sent === undefined && !this.#sending) void this.#send(link);
  }

  async #send(link: SessionLink): Promise<void> {
    const { snapshot, audit, unwritten, clock, logger } = this.#options;
    this.#sending = true;
    let models: readonly ObservedModelFields[] | undefined = snapshot();
    this.#partial = false;
    try {
      // What changes while the entry is written is said as well, so that the two never differ.
      let audited = '';
      for (;;) {
        this.#dirty = false;
        models = snapshot();
        if (audited === textOf(models)) break;
        audited = textOf(models);
        await audit(models);
      }
    } catch (thrown) {
      const error = toOctomilError(thrown);
      logger.warn({ error }, 'what runs here could not be told in full: it could not be written down');
      models = unwritten(models, error);
      this.#partial = true;
    }
    this.#sending = false;
    if (this.#link !== link) {
      // A new session waits for its report.
      if (this.#link !== undefined) void this.#send(this.#link);
      return;
    }
    if (models === undefined || (this.#partial && textOf(models) === this.#received)) {
      this.#repeatLater(link);
      return;
    }
    if (textOf(models) === this.#received) return;
    this.#sent = models;
    this.#sentAtMs = clock.now();
    link.send({ case: 'observedState', value: { models: models.map((model) => ({ ...model })) } });
    this.#repeatLater(link);
  }

  #repeatLater(link: SessionLink): void {
    this.#callOffRepeat();
    this.#callOffRepeat = this.#options.clock.after(REPEAT_MS, () => {
      if (this.#link === link) void this.#send(link);
    });
  }
}

function textOf(models: readonly ObservedModelFields[]): string {
  return JSON.stringify(models, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value));
}
