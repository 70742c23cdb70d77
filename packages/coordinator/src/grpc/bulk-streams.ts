import { create } from '@bufbuild/protobuf';
import type { ServerReadableStream, ServerWritableStream } from '@grpc/grpc-js';
import {
  type DownloadModelRequest,
  type DownloadModelResponse,
  DownloadModelResponseSchema,
  type UploadUpdateRequest,
  type UploadUpdateResponse,
} from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import type { DeviceIdentity, SessionHub } from '../devices/index.js';
import type { BufferPool, ChunkReceiver, TicketProof, TransferService } from '../transfers/index.js';
import { readCount } from './wire-fields.js';

type DownloadCall = ServerWritableStream<DownloadModelRequest, DownloadModelResponse>;
type UploadCall = ServerReadableStream<UploadUpdateRequest, UploadUpdateResponse>;

/** Resolves once grpc-js has copied the message and the connection took it; rejects when the call ends first. */
function send(call: DownloadCall, message: DownloadModelResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const onClose = (): void => reject(new OctomilError('cancelled', 'the call ended'));
    if (call.destroyed || call.cancelled) {
      onClose();
      return;
    }
    call.once('close', onClose);
    call.write(message, (error: Error | null | undefined) => {
      call.off('close', onClose);
      if (error === null || error === undefined) resolve();
      else reject(error);
    });
  });
}

/**
 * Streams a base from `offset` in chunks.
 *
 * @param signal ends it before the next chunk
 * @throws `not_found` unless an assignment of the device names the digest; `invalid_input` for an offset beyond the end;
 * the signal's reason
 */
export async function download(
  call: DownloadCall,
  device: DeviceIdentity,
  transfers: TransferService,
  pool: BufferPool,
  signal: AbortSignal,
): Promise<void> {
  const { model, offset } = call.request;
  if (model === undefined) throw new OctomilError('invalid_input', 'the request names no model');
  const start = readCount(offset, 'offset');
  const object = await transfers.openDownload(device.deviceId, model.sha256);
  try {
    if (start > object.sizeBytes) {
      throw new OctomilError('invalid_input', `offset ${start} is beyond the ${object.sizeBytes} bytes of this model`, {
        details: { offset: start, sizeBytes: object.sizeBytes },
      });
    }
    await object.pump({ start, end: object.sizeBytes }, pool, async (data, at) => {
      signal.throwIfAborted();
      await send(call, create(DownloadModelResponseSchema, { offset: BigInt(at), data }));
    });
  } finally {
    await object.release();
  }
  call.end();
}

/**
 * Takes an update's chunks under a ticket; answers how many bytes of it have arrived in whole parts. When that is all
 * of them, the update is completed and its verdict goes to the device's session: this call has no place for it.
 */
export async function upload(
  call: UploadCall,
  device: DeviceIdentity,
  transfers: TransferService,
  hub: SessionHub,
): Promise<number> {
  let receiver: ChunkReceiver | undefined;
  let proof: TicketProof | undefined;
  try {
    for await (const request of call as AsyncIterable<UploadUpdateRequest>) {
      const { content } = request;
      if (content.case === 'header') {
        if (receiver !== undefined) throw new OctomilError('invalid_input', 'the header is sent once, at the start');
        proof = { ticketId: content.value.ticketId, token: content.value.token, deviceId: device.deviceId };
        receiver = await transfers.receiveChunks(proof);
      } else if (content.case === 'chunk') {
        if (receiver === undefined) throw new OctomilError('invalid_input', 'an upload begins with its header');
        await receiver.write(readCount(content.value.offset, 'offset'), content.value.data);
      }
    }
  } finally {
    await receiver?.end();
  }
  if (receiver === undefined || proof === undefined) {
    throw new OctomilError('invalid_input', 'an upload begins with its header');
  }
  const { receivedBytes } = receiver;
  const { ticket } = await transfers.state(proof);
  if (receiver.whole || ticket.state !== 'open') {
    const verdict = await transfers.complete(proof);
    hub.get(device.deviceId)?.judge(ticket.header.key, verdict);
  }
  return receivedBytes;
}
