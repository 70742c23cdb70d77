import type { Clock } from '@octomil/shared/runtime';
import type { Dispatcher } from 'undici';
import type { FlowControl } from './backend.js';
import type { Deadlines } from './deadlines.js';
import { LineSplitter } from './line-splitter.js';
import { endedEarly, networkFailure, refusal } from './upstream-failure.js';

type Controller = Dispatcher.DispatchController;

/** What the lines of one read meant. */
export type ReadOutcome =
  /** Nothing that counts as progress. */
  | 'nothing'
  | 'content'
  /** The answer is whole; only figures may follow. */
  | 'finished'
  /** Nothing can follow. */
  | 'closed';

/** Takes the lines of one read. Throwing ends the request. */
export type LineReader = (lines: readonly string[], flow: FlowControl) => ReadOutcome;

export interface LineResponseOptions {
  readonly backend: string;
  readonly origin: string;
  readonly onLines: LineReader;
  readonly deadlines: Deadlines;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

const MAX_ERROR_BYTES = 64 * 1024;
/** After the last text, for the usage, and for the end of the connection's answer. */
const GRACE_MS = 2_000;

/**
 * Reads the answer to one request line by line, straight from undici's parser: a stream object between them would cost
 * as much for each token as everything else here.
 */
export class LineResponse implements Dispatcher.DispatchHandler, FlowControl {
  readonly #options: LineResponseOptions;
  readonly #splitter = new LineSplitter();
  readonly #done = Promise.withResolvers<void>();
  readonly #abort = (): void => {
    // Only figures are missing then, and the time for them is over.
    if (this.#state === 'whole') this.#done.resolve();
    else this.#done.reject(this.#options.signal.reason);
    this.#controller?.abort(this.#options.signal.reason as Error);
  };
  #controller: Controller | undefined;
  #refused: { readonly status: number; readonly retryAfter: string | undefined; text: string } | undefined;
  #state: 'waiting' | 'reading' | 'whole' | 'closed' = 'waiting';
  #cancelClose: () => void = () => undefined;

  constructor(options: LineResponseOptions) {
    this.#options = options;
    options.signal.addEventListener('abort', this.#abort, { once: true });
  }

  /** Resolves when the answer is whole. Rejects with what undici threw while there was no answer at all. */
  get done(): Promise<void> {
    return this.#done.promise;
  }

  pause(): void {
    this.#options.deadlines.pause();
    this.#controller?.pause();
  }

  resume(): void {
    this.#options.deadlines.resume();
    this.#controller?.resume();
  }

  onRequestStart(controller: Controller): void {
    this.#controller = controller;
    if (this.#options.signal.aborted) this.#abort();
  }

  onResponseStart(
    _: Controller,
    status: number,
    headers: Readonly<Record<string, string | string[] | undefined>>,
  ): void {
    // An interim answer (RFC 9110, 15.2): the one that counts follows.
    if (status < 200) return;
    this.#state = 'reading';
    if (status < 300) return;
    const retryAfter = headers['retry-after'];
    this.#refused = { status, retryAfter: typeof retryAfter === 'string' ? retryAfter : undefined, text: '' };
  }

  onResponseData(_: Controller, chunk: Buffer): void {
    if (this.#refused !== undefined) {
      if (this.#refused.text.length < MAX_ERROR_BYTES) this.#refused.text += chunk.toString('utf8');
      return;
    }
    if (this.#state === 'closed') return;
    try {
      const lines = this.#splitter.push(chunk);
      if (lines.length > 0) this.#take(lines);
    } catch (error) {
      this.#fail(error);
    }
  }

  onResponseEnd(): void {
    this.#release();
    const { backend } = this.#options;
    if (this.#refused !== undefined) {
      const { status, text, retryAfter } = this.#refused;
      this.#done.reject(refusal(backend, status, text, retryAfter));
      return;
    }
    if (this.#state === 'closed') return;
    try {
      const rest = this.#splitter.rest();
      if (rest.trim() !== '') this.#take([rest]);
    } catch (error) {
      this.#done.reject(error);
    }
    // After `take`, which may have found the end in the last line.
    if (this.#state === 'reading') this.#done.reject(endedEarly(backend));
    else this.#done.resolve();
    this.#release();
  }

  onResponseError(_: Controller, error: Error): void {
    this.#release();
    if (this.#state === 'whole') this.#done.resolve();
    else if (this.#state === 'waiting') this.#done.reject(error);
    else this.#done.reject(networkFailure(this.#options.backend, this.#options.origin, error, true));
  }

  #take(lines: readonly string[]): void {
    const { onLines, deadlines, clock } = this.#options;
    const outcome = onLines(lines, this);
    if (outcome === 'content') deadlines.content();
    else if (outcome === 'closed') {
      this.#state = 'closed';
      this.#done.resolve();
      // What follows is read away, so that the connection can serve again; not for ever.
      this.#cancelClose = clock.after(GRACE_MS, () => this.#controller?.abort(endedEarly(this.#options.backend)));
    } else if (outcome === 'finished' && this.#state === 'reading') {
      this.#state = 'whole';
      deadlines.grace(GRACE_MS);
    }
  }

  #fail(error: unknown): void {
    this.#done.reject(error);
    this.#controller?.abort(error instanceof Error ? error : endedEarly(this.#options.backend));
  }

  #release(): void {
    this.#cancelClose();
    this.#options.signal.removeEventListener('abort', this.#abort);
  }
}
