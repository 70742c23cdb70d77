import type { ServerResponse } from 'node:http';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { FastifyReply } from 'fastify';
import type { FlowControl } from './backend.js';

const PING_MS = 15_000;
const HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  // Buffering proxies would hold events back.
  'x-accel-buffering': 'no',
};

/** Aborts when the client of a response leaves before it is whole. */
export class ClientPresence {
  readonly #raw: ServerResponse;
  readonly #gone = new AbortController();
  readonly #onClose: () => void;

  constructor(raw: ServerResponse) {
    this.#raw = raw;
    this.#onClose = () => {
      if (!raw.writableFinished) this.#gone.abort(new OctomilError('cancelled', 'the client left'));
    };
    raw.once('close', this.#onClose);
    if (raw.destroyed) this.#onClose();
  }

  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  release(): void {
    this.#raw.off('close', this.#onClose);
  }
}

/**
 * Server-sent events to one client. Nothing is sent, not even headers, before the first event or the first `: ping`
 * after 15 s, so that what fails before keeps its status.
 */
export class EventStream {
  readonly #reply: FastifyReply;
  readonly #raw: ServerResponse;
  readonly #clock: Clock;
  readonly #client: ClientPresence;
  #begun = false;
  #lastWriteMs: number;
  #cancelPing: () => void;
  #held: FlowControl | undefined;
  /** Whether each write must be framed as a chunk (RFC 9112, section 7.1); HTTP/1.0 has none. */
  #framed = false;

  constructor(reply: FastifyReply, clock: Clock) {
    this.#reply = reply;
    this.#raw = reply.raw;
    this.#clock = clock;
    this.#client = new ClientPresence(this.#raw);
    this.#lastWriteMs = clock.now();
    this.#cancelPing = clock.after(PING_MS, () => this.#ping());
  }

  /** Aborts when the client leaves. */
  get signal(): AbortSignal {
    return this.#client.signal;
  }

  /** Whether headers are out, so that a failure can only be an event. */
  get begun(): boolean {
    return this.#begun;
  }

  /** Writes whole events; `flow` is held back until a slow client has read them. */
  write(events: string, flow: FlowControl): void {
    if (!this.#begun) this.#begin();
    this.#lastWriteMs = this.#clock.now();
    if (this.#raw.write(this.#frame(events)) || this.#held !== undefined) return;
    this.#held = flow;
    flow.pause();
    this.#raw.once('drain', () => {
      this.#held = undefined;
      flow.resume();
    });
  }

  /** Sends the last events and closes the stream. */
  end(events: string): void {
    if (!this.#begun) this.#begin();
    this.close();
    this.#raw.end(`${this.#frame(events)}${this.#framed ? '0\r\n\r\n' : ''}`);
  }

  /** Leaves the reply as it is: to be answered otherwise, when nothing was begun. */
  close(): void {
    this.#cancelPing();
    this.#client.release();
  }

  #begin(): void {
    this.#begun = true;
    this.#reply.hijack();
    const headers = this.#reply.getHeaders();
    for (const [name, value] of Object.entries(headers)) if (value !== undefined) this.#raw.setHeader(name, value);
    // A client that is gone: what is written then goes nowhere, and must not end the process.
    this.#raw.on('error', () => undefined);
    this.#raw.writeHead(200, HEADERS);
    // Node writes a chunk in four pieces; in one it costs a third less processor time for each token.
    this.#framed = this.#raw.chunkedEncoding;
    this.#raw.chunkedEncoding = false;
  }

  #frame(events: string): string {
    return this.#framed ? `${Buffer.byteLength(events).toString(16)}\r\n${events}\r\n` : events;
  }

  #ping(): void {
    const silentMs = this.#clock.now() - this.#lastWriteMs;
    if (silentMs >= PING_MS && this.#held === undefined) {
      if (!this.#begun) this.#begin();
      this.#lastWriteMs = this.#clock.now();
      this.#raw.write(this.#frame(': ping\n\n'));
    }
    const nextMs = Math.max(1, this.#lastWriteMs + PING_MS - this.#clock.now());
    this.#cancelPing = this.#clock.after(this.#held === undefined ? nextMs : PING_MS, () => this.#ping());
  }
}
