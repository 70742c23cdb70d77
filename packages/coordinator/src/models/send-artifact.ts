import { OctomilError } from '@octomil/shared/errors';
import type { Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { parseByteRange } from '../http/byte-range.js';
import { errorBody } from '../http/error-answer.js';
import { tellingWhyBroken } from '../transfers/broken-download.js';
import { BufferPool, pumpFile, pumpObject } from '../transfers/file-pump.js';
import { streamReply } from '../transfers/stream-reply.js';
import { contentDisposition } from './content-disposition.js';
import type { Artifact } from './version-store.js';

/** Twice this is in memory for each download under way. */
const CHUNK_BYTES = 256 * 1024;
const pool = new BufferPool(CHUNK_BYTES, 32);

export interface ArtifactSource {
  readonly objects: ObjectStore;
  readonly logger: Logger;
}

/**
 * Answers a file, a range of it (206, 416), or that the caller has it already (304).
 *
 * @throws OctomilError `download_failed` when the store lost it
 */
export async function sendArtifact(
  request: FastifyRequest,
  reply: FastifyReply,
  { objects, logger }: ArtifactSource,
  artifact: Artifact,
  fileName: string,
): Promise<FastifyReply> {
  const etag = `"${artifact.sha256}"`;
  reply
    .header('etag', etag)
    .header('accept-ranges', 'bytes')
    .header('x-model-hash', `sha256:${artifact.sha256}`)
    .header('content-disposition', contentDisposition(fileName));
  if (matches(request.headers['if-none-match'], etag)) return reply.code(304).send();
  // A range of another content would not fit what the client holds.
  const ifRange = request.headers['if-range'];
  const wanted = ifRange === undefined || ifRange === etag ? request.headers.range : undefined;
  let range: { start: number; end: number } | undefined;
  try {
    range = parseByteRange(wanted, artifact.size_bytes);
  } catch (error) {
    if (!(error instanceof OctomilError)) throw error;
    reply.header('content-range', `bytes */${artifact.size_bytes}`);
    return reply.code(416).send(errorBody(error, 416, request.id));
  }
  await requireBytes(objects, artifact);
  const { start, end } = range ?? { start: 0, end: artifact.size_bytes };
  // Of a bucket only what was asked for is read; a file is sent without a copy in between.
  const file = objects.direct === undefined ? await objects.localFile(artifact.object_key) : undefined;
  try {
    reply.type('application/octet-stream').header('content-length', end - start);
    if (range !== undefined) {
      reply.code(206).header('content-range', `bytes ${start}-${end - 1}/${artifact.size_bytes}`);
    }
    const hasBody = request.method !== 'HEAD' && end > start;
    const pump = (send: (chunk: Buffer) => Promise<void>): Promise<void> =>
      file === undefined
        ? pumpObject(objects, artifact.object_key, { start, end }, send)
        : pumpFile(file.path, { start, end }, pool, send);
    const broke = (error: unknown): void =>
      logger.error({ error, objectKey: artifact.object_key }, 'a file of a version could not be sent');
    await streamReply(reply, hasBody ? (send) => tellingWhyBroken(pump, send, broke) : undefined);
    return reply;
  } finally {
    await file?.release();
  }
}

/** `*`, or one of a list; a weak mark stands for the same bytes here. */
function matches(header: string | undefined, etag: string): boolean {
  const known = header?.split(',').map((one) => one.trim()) ?? [];
  return known.some((one) => one === '*' || one === etag || one === `W/${etag}`);
}

/** @throws OctomilError `download_failed` when the store lost the file, or holds another in its place */
export async function requireBytes(objects: ObjectStore, artifact: Artifact): Promise<void> {
  const found = await objects.stat(artifact.object_key);
  if (found?.sizeBytes === artifact.size_bytes) return;
  throw new OctomilError(
    'download_failed',
    found === undefined
      ? `the file ${artifact.object_key} (${artifact.format}) is missing in the object store; restore it from a backup, or make a new version`
      : `the file ${artifact.object_key} (${artifact.format}) has ${found.sizeBytes} of ${artifact.size_bytes} bytes; restore it from a backup`,
    { details: { object_key: artifact.object_key, format: artifact.format } },
  );
}
