import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { ByteRange } from '@octomil/shared/storage';

export interface ServedFile {
  bytes: Buffer;
  /** Empty: the server tells no version. */
  etag: string;
  /** False: every answer is the whole file. Default true. */
  ranges?: boolean;
}

/** A web server of tests: files with ETags, conditions and ranges, and what was asked of them. */
export interface RangeServer {
  readonly files: Map<string, ServedFile>;
  /** `HEAD` or `GET` and the range. */
  readonly asked: string[];
  /** Bytes sent, in the order of requests. */
  readonly served: ByteRange[];
  /** Called before each answer. */
  before: (asked: string) => void;
  url(name: string): string;
  close(): void;
}

export async function startRangeServer(): Promise<RangeServer> {
  const files = new Map<string, ServedFile>();
  const asked: string[] = [];
  const served: ByteRange[] = [];
  const server = createServer((request, response) => {
    const line = `${request.method} ${request.headers.range ?? ''}`.trim();
    asked.push(line);
    made.before(line);
    const file = files.get(new URL(request.url ?? '', 'http://x').pathname.slice(1));
    if (file === undefined) return response.writeHead(404).end();
    const { bytes, etag, ranges = true } = file;
    const condition = request.headers['if-match'];
    if (condition !== undefined && condition !== etag) return response.writeHead(412).end();
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(ranges ? (request.headers.range ?? '') : '') ?? [];
    const whole = from === undefined;
    const range = whole ? { start: 0, end: bytes.length } : { start: Number(from), end: Number(to) + 1 };
    response.writeHead(whole ? 200 : 206, {
      ...(etag === '' ? {} : { etag }),
      'content-length': range.end - range.start,
      ...(whole ? {} : { 'content-range': `bytes ${from}-${to}/${bytes.length}` }),
    });
    if (request.method === 'HEAD') return response.end();
    served.push(range);
    return response.end(bytes.subarray(range.start, range.end));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const made: RangeServer = {
    files,
    asked,
    served,
    before: () => undefined,
    url: (name) => `http://127.0.0.1:${port}/${name}`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
  return made;
}
