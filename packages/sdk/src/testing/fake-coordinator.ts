import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Timing } from '../client-options.js';

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

type Answer = (request: SeenRequest, response: ServerResponse) => void;

/** A real HTTP server with scripted answers, for the tests of this package. */
export class FakeCoordinator {
  readonly requests: SeenRequest[] = [];
  readonly waitsMs: number[] = [];
  readonly #answers: Answer[] = [];
  readonly #server: Server;

  constructor() {
    this.#server = createServer((incoming, response) => {
      let body = '';
      incoming.setEncoding('utf8');
      incoming.on('data', (chunk: string) => {
        body += chunk;
      });
      incoming.on('end', () => {
        const request = { method: incoming.method ?? '', path: incoming.url ?? '', headers: incoming.headers, body };
        this.requests.push(request);
        const answer = this.#answers.shift();
        if (answer === undefined) response.writeHead(599).end(`no answer was scripted for ${request.path}`);
        else answer(request, response);
      });
    });
  }

  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Answers the next request that has no answer yet. */
  next(answer: Answer): this {
    this.#answers.push(answer);
    return this;
  }

  json(status: number, body: unknown, headers: Record<string, string> = {}): this {
    return this.next((_request, response) => {
      response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
    });
  }

  /** @param cut true breaks the connection after the events, as a killed process does */
  events(text: string, cut = false): this {
    return this.next((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(text, () => (cut ? response.destroy() : response.end()));
    });
  }

  get apiBase(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/api/v1`;
  }

  /** Waits take no time and are written down; chance always says 1. */
  get timing(): Timing {
    return {
      random: () => 1,
      sleep: (delayMs, signal) => {
        this.waitsMs.push(delayMs);
        return signal?.aborted ? Promise.reject(signal.reason) : Promise.resolve();
      },
    };
  }
}
