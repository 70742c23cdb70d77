import { randomUUID } from 'node:crypto';
import type { Readable } from 'node:stream';
import { inPieces } from './in-pieces.js';

export interface MultipartUpload {
  readonly contentType: string;
  readonly sizeBytes: number;
  readonly body: Readable;
}

/** An object's metadata and its bytes as one request (https://cloud.google.com/storage/docs/uploading-objects, multipart). */
export function multipartUpload(metadata: { readonly contentType: string }, bytes: Uint8Array): MultipartUpload {
  const boundary = randomUUID();
  const head = Buffer.from(
    [
      `--${boundary}`,
      'content-type: application/json; charset=UTF-8',
      '',
      JSON.stringify(metadata),
      `--${boundary}`,
      `content-type: ${metadata.contentType}`,
      '',
      '',
    ].join('\r\n'),
  );
  const tail = Buffer.from(`\r\n--${boundary}--\r\n`);
  return {
    contentType: `multipart/related; boundary=${boundary}`,
    sizeBytes: head.length + bytes.length + tail.length,
    body: inPieces(head, bytes, tail),
  };
}
