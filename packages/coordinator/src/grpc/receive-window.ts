import type { Server } from '@grpc/grpc-js';

/** What is read of grpc-js here beyond its public face, as of 1.14; a test fails when it moves. */
interface ServerInside {
  commonServerOptions?: { settings?: Record<string, unknown> };
  http2Servers?: Map<{ on(event: 'session', listener: (session: WindowedSession) => void): unknown }, unknown>;
}

interface WindowedSession {
  setLocalWindowSize(bytes: number): void;
}

/**
 * Widens the HTTP/2 windows for what clients send. grpc-js has an option for this, which its server ignores: with the
 * default of 64 KiB, uploads crawl at 2 MB/s over a line of 20 ms.
 *
 * A window is memory that a sender may fill before it must wait, so it bounds what one connection can cost.
 */
export class ReceiveWindow {
  readonly #inside: ServerInside;
  readonly #bytes: number;

  constructor(server: Server, bytes: number) {
    this.#inside = server as unknown as ServerInside;
    this.#bytes = bytes;
  }

  /** Before the server is bound: the window of every stream. False when this grpc-js has no such place. */
  widenStreams(): boolean {
    const options = this.#inside.commonServerOptions;
    if (typeof options !== 'object' || options === null) return false;
    options.settings = { ...options.settings, initialWindowSize: this.#bytes };
    return true;
  }

  /** After the server is bound: the window of every connection. False when this grpc-js has no such place. */
  widenConnections(): boolean {
    const servers = this.#inside.http2Servers;
    if (!(servers instanceof Map) || servers.size === 0) return false;
    for (const server of servers.keys()) server.on('session', (session) => session.setLocalWindowSize(this.#bytes));
    return true;
  }
}
