import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { OctomilError } from '@octomil/shared/errors';

export interface LeanAnswer {
  readonly status: number;
  readonly body: Buffer;
}

export interface LeanRequest {
  readonly method: string;
  /** Path and query, encoded. */
  readonly path: string;
  /** Without a scheme's word: an API key or a device's credential. */
  readonly bearer: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent as JSON. */
  readonly body?: unknown;
}

const HEAD_END = Buffer.from('\r\n\r\n');

export function encodeRequest({ method, path, bearer, headers = {}, body }: LeanRequest): Buffer {
  const text = body === undefined ? '' : JSON.stringify(body);
  const lines = [`${method} ${path} HTTP/1.1`, 'host: 127.0.0.1', `authorization: Bearer ${bearer}`];
  for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
  if (body !== undefined) lines.push('content-type: application/json');
  if (method !== 'GET') lines.push(`content-length: ${Buffer.byteLength(text)}`);
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${text}`);
}

/**
 * One kept-alive connection that carries one request at a time and reads answers by their `content-length`. A load
 * generator shares the machine with what it measures, so it does as little as possible.
 */
export class LeanConnection {
  readonly #socket: Socket;
  #received: Buffer[] = [];
  #waiting: { resolve(answer: LeanAnswer): void; reject(error: unknown): void } | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new OctomilError('network_unavailable', 'the connection ended')));
  }

  static async open(url: string): Promise<LeanConnection> {
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    await once(socket, 'connect');
    return new LeanConnection(socket);
  }

  exchange(request: Buffer): Promise<LeanAnswer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.write(request);
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    this.#received.push(chunk);
    const all = this.#received.length === 1 ? chunk : Buffer.concat(this.#received);
    this.#received = [all];
    const headEnd = all.indexOf(HEAD_END);
    if (headEnd < 0) return;
    const head = all.toString('latin1', 0, headEnd);
    const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
    if (length === undefined) {
      this.#fail(new OctomilError('internal', `an answer without content-length: ${head}`));
      return;
    }
    const end = headEnd + HEAD_END.length + Number(length);
    if (all.length < end) return;
    this.#received = [];
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve({ status: Number(head.slice(9, 12)), body: all.subarray(headEnd + HEAD_END.length, end) });
  }

  #fail(error: unknown): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.reject(error);
  }
}

/** So many connections; a request waits for the first that is free, in the order of asking. */
export class LeanPool {
  readonly #free: LeanConnection[];
  readonly #all: readonly LeanConnection[];
  readonly #waiting: ((connection: LeanConnection) => void)[] = [];

  private constructor(connections: readonly LeanConnection[]) {
    this.#all = connections;
    this.#free = [...connections];
  }

  static async open(url: string, connections: number): Promise<LeanPool> {
    return new LeanPool(await Promise.all(Array.from({ length: connections }, () => LeanConnection.open(url))));
  }

  async exchange(request: Buffer): Promise<LeanAnswer> {
    const connection =
      this.#free.pop() ?? (await new Promise<LeanConnection>((resolve) => this.#waiting.push(resolve)));
    try {
      return await connection.exchange(request);
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free.push(connection);
      else next(connection);
    }
  }

  close(): void {
    for (const connection of this.#all) connection.close();
  }
}
