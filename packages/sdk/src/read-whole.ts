import { OctomilClientError } from './client-error.js';
import { timerAfter } from './timer.js';

/** What is read before somebody takes it. */
const AHEAD_BYTES = 16 * 1024 * 1024;

/**
 * The chunks of a body as they come. A large body may take long, a dead one not. Read ahead of a slow taker: while reading
 * rests, the fetch of Node (24.21 too) ends the process where a server closes the connection (nodejs/undici#5360).
 *
 * @throws OctomilClientError `request_timeout` after `silenceMs` without a byte; else whatever breaks the connection
 */
export async function* bodyChunks(
  response: Response,
  silenceMs: number,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let aheadBytes = 0;
  // Changed from elsewhere while this waits, which the compiler does not see of a variable.
  const reading: { end?: 'whole' | 'left' | { readonly failure: unknown } } = {};
  let tellTaker = (): void => undefined;
  let tellReader = (): void => undefined;

  const readAhead = async (): Promise<void> => {
    for (;;) {
      const { done, value } = await readWithin(reader, silenceMs);
      if (done) return;
      chunks.push(value);
      aheadBytes += value.length;
      tellTaker();
      while (aheadBytes > AHEAD_BYTES && reading.end === undefined) {
        await new Promise<void>((resolve) => {
          tellReader = resolve;
        });
      }
    }
  };
  const settle = (end: 'whole' | { readonly failure: unknown }): void => {
    reading.end ??= end;
    tellTaker();
  };
  readAhead().then(
    () => settle('whole'),
    (failure: unknown) => settle({ failure }),
  );

  try {
    for (;;) {
      const chunk = chunks.shift();
      if (chunk !== undefined) {
        aheadBytes -= chunk.length;
        tellReader();
        yield chunk;
      } else if (typeof reading.end === 'object') {
        throw reading.end.failure;
      } else if (reading.end !== undefined) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          tellTaker = resolve;
        });
      }
    }
  } finally {
    // Who stops listening lets the connection go.
    if (reading.end === undefined) {
      reading.end = 'left';
      tellReader();
      await reader.cancel().catch(() => undefined);
    }
  }
}

type BodyReader = ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;

/** @throws OctomilClientError `request_timeout` */
async function readWithin(reader: BodyReader, silenceMs: number): ReturnType<BodyReader['read']> {
  let silent = false;
  const timer = timerAfter(silenceMs, () => {
    silent = true;
    // Ends the read below as well.
    reader.cancel().catch(() => undefined);
  });
  const read = await reader.read().finally(() => clearTimeout(timer));
  if (silent) throw new OctomilClientError('request_timeout', `no byte came for ${silenceMs} ms`);
  return read;
}

/** @throws OctomilClientError as `bodyChunks` */
export async function readWhole(response: Response, silenceMs: number): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  for await (const chunk of bodyChunks(response, silenceMs)) chunks.push(chunk);
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
