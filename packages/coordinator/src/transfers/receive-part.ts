import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { StagedUpload } from './staged-upload.js';

export interface ReceivePartOptions {
  readonly upload: StagedUpload;
  readonly index: number;
  readonly sizeBytes: number;
  readonly body: AsyncIterable<Uint8Array>;
  /** What the sender announced; checked before a byte is read. */
  readonly contentLength: number | undefined;
  readonly clock: Clock;
  readonly idleMs: number;
  readonly onBytes: () => void;
}

/**
 * Writes a request's body to its part. A part that has arrived before is not read again.
 *
 * @throws `too_large` and `transfer_incomplete` when the body is not exactly the part; `request_timeout` when it stalls
 */
export async function receivePart(options: ReceivePartOptions): Promise<void> {
  const { upload, index, sizeBytes, contentLength, clock, idleMs } = options;
  if (contentLength !== undefined && contentLength !== sizeBytes) {
    const details = { partIndex: index, limitBytes: sizeBytes, contentLength };
    throw contentLength > sizeBytes
      ? new OctomilError(
          'too_large',
          `part ${index} has exactly ${sizeBytes} bytes and the request announces ${contentLength}`,
          { details },
        )
      : new OctomilError(
          'transfer_incomplete',
          `part ${index} has ${sizeBytes} bytes and the request announces only ${contentLength}`,
          { details },
        );
  }
  const sink = await upload.beginPart(index);
  if (sink === undefined) return;
  let cancelIdle = (): void => undefined;
  const stalled = new OctomilError(
    'request_timeout',
    `no byte of part ${index} arrived for ${idleMs} ms; send it again`,
    { details: { partIndex: index } },
  );
  const iterator = options.body[Symbol.asyncIterator]();
  const next = (): Promise<IteratorResult<Uint8Array>> =>
    new Promise((resolve, reject) => {
      cancelIdle = clock.after(idleMs, () => reject(stalled));
      iterator.next().then(resolve, reject);
    });
  try {
    for (let step = await next(); step.done !== true; step = await next()) {
      cancelIdle();
      await sink.write(step.value);
      options.onBytes();
    }
    await sink.commit();
  } catch (error) {
    const reason = reasonOf(error, index);
    await sink.abort(reason);
    // Lets go of the stream; not awaited, because a stalled one never answers.
    iterator.return?.().catch(() => undefined);
    throw reason;
  } finally {
    cancelIdle();
  }
}

function reasonOf(error: unknown, index: number): OctomilError {
  if (error instanceof OctomilError) return error;
  const known = toOctomilError(error);
  if (known.code === 'insufficient_storage') return known;
  return new OctomilError('transfer_incomplete', `the connection ended within part ${index}; send it again`, {
    cause: error,
  });
}
