import { OctomilClientError } from './client-error.js';
import { timerAfter } from './timer.js';

/**
 * The chunks of a body as they come. A large body may take long, a dead one not.
 *
 * @throws OctomilClientError `request_timeout` after `silenceMs` without a byte; else whatever breaks the connection
 */
export async function* bodyChunks(
  response: Response,
  silenceMs: number,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  let ended = false;
  try {
    while (true) {
      let silent = false;
      const timer = timerAfter(silenceMs, () => {
        silent = true;
        // Ends the read below as well.
        reader.cancel().catch(() => undefined);
      });
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (silent) throw new OctomilClientError('request_timeout', `no byte came for ${silenceMs} ms`);
      if (done) {
        ended = true;
        return;
      }
      yield value;
    }
  } finally {
    // Who stops listening lets the connection go.
    if (!ended) await reader.cancel().catch(() => undefined);
  }
}

/** @throws OctomilClientError as `bodyChunks` */
export async function readWhole(response: Response, silenceMs: number): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  for await (const chunk of bodyChunks(response, silenceMs)) chunks.push(chunk);
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
