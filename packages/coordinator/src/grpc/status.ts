import type { Metadata } from '@grpc/grpc-js';
import { errorMetadata } from '@octomil/proto';
import { type OctomilError, toOctomilError } from '@octomil/shared/errors';

/** Metadata of a call must stay well below the 8 KiB that peers take. */
const MAX_BODY_BYTES = 4096;
const MAX_MESSAGE_LENGTH = 1000;

/** An error as grpc-js sends it. */
export interface StatusError {
  readonly name: string;
  readonly message: string;
  readonly code: number;
  readonly details: string;
  readonly metadata: Metadata;
}

/** The gRPC status of an error's code, with the code and the whole body in the trailing metadata. */
export function toStatusError(thrown: unknown): StatusError {
  const error = toOctomilError(thrown);
  const details = error.reason.slice(0, MAX_MESSAGE_LENGTH);
  const body = error.toBody();
  const fits = Buffer.byteLength(JSON.stringify(body)) <= MAX_BODY_BYTES;
  return {
    name: error.name,
    message: details,
    code: error.entry.grpc,
    details,
    metadata: errorMetadata(fits ? body : { code: error.code, message: details }),
  };
}

/** Whether the caller is at fault rather than this process: such failures are no news for its log. */
export function isCallersFault(error: OctomilError): boolean {
  return error.entry.http < 500;
}
