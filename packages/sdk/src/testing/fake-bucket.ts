import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface BucketRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

/** A real HTTP server in place of a bucket: it answers as it is told, and keeps what is put. */
export class FakeBucket {
  readonly requests: BucketRequest[] = [];
  readonly parts = new Map<string, Buffer>();
  /** How many requests were under way at once. */
  atOnce = 0;
  /** Says whether it answered; what it does not answer is kept or given by the rules of buckets. */
  answer: (request: BucketRequest, response: ServerResponse) => boolean = () => false;
  readonly #server: Server;
  #open = 0;

  constructor() {
    this.#server = createServer((incoming, response) => {
      const chunks: Buffer[] = [];
      this.#open += 1;
      this.atOnce = Math.max(this.atOnce, this.#open);
      response.on('close', () => {
        this.#open -= 1;
      });
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
      incoming.on('end', () => {
        const { method = '', url: path = '', headers } = incoming;
        const request = { method, path, headers, body: Buffer.concat(chunks) };
        this.requests.push(request);
        if (this.answer(request, response)) return;
        this.parts.set(path, request.body);
        setTimeout(() => response.writeHead(200).end(), 20);
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

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }
}
