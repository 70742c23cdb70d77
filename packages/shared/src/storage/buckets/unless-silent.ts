import type { Readable } from 'node:stream';

/**
 * The chunks of a stream that ends with an error when none comes for so long. Time that the reader takes does not count.
 *
 * @throws a `TimeoutError`, which `networkProblem` knows; what the stream throws
 */
export async function* unlessSilent(stream: Readable, silenceMs: number): AsyncGenerator<Uint8Array> {
  let timer: NodeJS.Timeout | undefined;
  const listen = (): void => {
    timer = setTimeout(() => {
      stream.destroy(new DOMException(`no byte came for ${silenceMs} ms`, 'TimeoutError'));
    }, silenceMs);
  };
  try {
    listen();
    for await (const chunk of stream as AsyncIterable<Uint8Array>) {
      clearTimeout(timer);
      yield chunk;
      listen();
    }
  } finally {
    clearTimeout(timer);
  }
}
