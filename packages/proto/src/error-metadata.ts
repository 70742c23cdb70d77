import { Metadata } from '@grpc/grpc-js';

/** Trailing metadata: the code of the error table. */
export const ERROR_CODE_KEY = 'octomil-code';
/** Trailing metadata: the whole error body as UTF-8 JSON; binary, because a message may hold any character. */
export const ERROR_BODY_KEY = 'octomil-error-bin';

/** An error as it travels; `OctomilError.fromBody` checks it. */
export interface WireErrorBody {
  readonly code?: unknown;
  readonly message?: unknown;
  readonly details?: unknown;
}

/** What a server adds to a gRPC status, so that a client can rebuild the error. */
export function errorMetadata(body: { code: string; message: string }): Metadata {
  const metadata = new Metadata();
  metadata.set(ERROR_CODE_KEY, body.code);
  metadata.set(ERROR_BODY_KEY, Buffer.from(JSON.stringify(body)));
  return metadata;
}

/** The error body in what a call failed with; `undefined` when the peer sent none (a proxy, a cut connection). */
export function errorBodyOf(error: { metadata?: Metadata | undefined }): WireErrorBody | undefined {
  const [value] = error.metadata?.get(ERROR_BODY_KEY) ?? [];
  if (value === undefined) return undefined;
  try {
    const body: unknown = JSON.parse(value.toString());
    return typeof body === 'object' && body !== null ? body : undefined;
  } catch {
    return undefined;
  }
}
