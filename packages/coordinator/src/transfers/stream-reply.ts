import type { ServerResponse } from 'node:http';
import { OctomilError } from '@octomil/shared/errors';
import type { FastifyReply } from 'fastify';

/**
 * Answers with bytes past Fastify, whose streams would take a new buffer for every chunk. Status and headers are those of
 * the reply; `pump` sends the body, and is left out where there is none.
 */
export async function streamReply(
  reply: FastifyReply,
  pump?: (send: (chunk: Buffer) => Promise<void>) => Promise<void>,
): Promise<void> {
  const response = reply.raw;
  reply.hijack();
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== undefined) response.setHeader(name, value);
  }
  response.writeHead(reply.statusCode);
  try {
    await pump?.((chunk) => send(response, chunk));
    response.end();
  } catch {
    // The length was promised: a cut connection is what tells the receiver that bytes are missing.
    response.destroy();
  }
}

/** Resolves when the connection has taken the chunk; rejects when it is gone. */
function send(response: ServerResponse, chunk: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const onClose = (): void => reject(new OctomilError('cancelled', 'the connection ended'));
    if (response.destroyed) {
      onClose();
      return;
    }
    response.once('close', onClose);
    response.write(chunk, (error) => {
      response.off('close', onClose);
      if (error === null || error === undefined) resolve();
      else reject(error);
    });
  });
}
