import { OctomilClientError } from './client-error.js';

/** @throws whatever breaks the connection, and after `silenceMs` without a byte: a large body may take long, a dead one not */
export async function readWhole(response: Response, silenceMs: number): Promise<Uint8Array<ArrayBuffer>> {
  const reader = response.body?.getReader();
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  for (let silent = false; reader !== undefined; ) {
    const timer = setTimeout(() => {
      silent = true;
      // Ends the read below as well.
      reader.cancel().catch(() => undefined);
    }, silenceMs);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (silent) throw new OctomilClientError('request_timeout', `no byte came for ${silenceMs} ms`);
    if (done) break;
    chunks.push(value);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
