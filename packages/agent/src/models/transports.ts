import { create } from '@bufbuild/protobuf';
import type { Metadata } from '@grpc/grpc-js';
import { type DownloadModelResponse, ModelRefSchema } from '@octomil/proto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { CoordinatorClient } from '../connection/coordinator-client.js';
import type { HttpTransfers } from '../connection/http-transfers.js';
import { fromGrpcError } from '../connection/problem.js';

/** A file on the coordinator, named by its content. */
export interface BaseRef {
  /** Lower-case hexadecimal. */
  readonly sha256: string;
  readonly sizeBytes: number;
}

/** One way to get the bytes of a base from `offset` on. */
export interface BaseTransport {
  readonly name: 'bucket' | 'http' | 'grpc';
  /** Whether the coordinator offers it at the moment. */
  readonly available: boolean;
  /** Whether it is worth trying for this one. Default: always. */
  suits?(base: BaseRef): boolean;
  fetch(base: BaseRef, offset: number, signal: AbortSignal): AsyncIterable<Uint8Array>;
}

export function httpBaseTransport(http: HttpTransfers): BaseTransport {
  return {
    name: 'http',
    get available() {
      return http.available;
    },
    fetch: (base, offset, signal) => http.download(base.sha256, offset, signal),
  };
}

/** Over the gRPC port, on a connection apart from the session's so that lease renewals do not queue behind bulk bytes. */
export function grpcBaseTransport(client: () => CoordinatorClient, metadata: () => Metadata): BaseTransport {
  return {
    name: 'grpc',
    available: true,
    async *fetch(base, offset, signal) {
      const model = create(ModelRefSchema, { sha256: base.sha256, sizeBytes: BigInt(base.sizeBytes) });
      const call = client().downloadModel({ model, offset: BigInt(offset) }, metadata());
      const onAbort = (): void => call.cancel();
      signal.addEventListener('abort', onAbort, { once: true });
      let expected = offset;
      try {
        for await (const response of call) {
          const { offset: at, data } = response as DownloadModelResponse;
          if (Number(at) !== expected) {
            throw new OctomilError('download_failed', `the coordinator sent byte ${at} where ${expected} was due`);
          }
          expected += data.length;
          yield data;
        }
      } catch (error) {
        if (signal.aborted) throw toOctomilError(signal.reason, 'cancelled');
        throw error instanceof OctomilError ? error : fromGrpcError(error as Error);
      } finally {
        signal.removeEventListener('abort', onAbort);
        call.cancel();
      }
    },
  };
}
