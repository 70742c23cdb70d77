import { Readable } from 'node:stream';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { ByteRange } from '@octomil/shared/storage';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import { parseByteRange } from '../http/byte-range.js';
import { type App, discardRest, errorBody, requireDevice } from '../http/index.js';
import { BufferPool } from './file-pump.js';
import { streamReply } from './stream-reply.js';
import type { TicketProof, TransferService, UploadState } from './transfer-service.js';

export interface TransferRoutesOptions {
  readonly transfers: TransferService;
  /** Calls `cut` when the device is revoked; answers what ends that. Without it, a download that began goes on. */
  readonly onRevoked?: (deviceId: string, cut: () => void) => () => void;
}

/** Twice this is in memory for each download under way. */
const DOWNLOAD_CHUNK_BYTES = 256 * 1024;

const TicketParams = Type.Object({ ticketId: Type.String({ maxLength: 64 }) });
const PartParams = Type.Object({ ticketId: Type.String({ maxLength: 64 }), part: Type.Integer({ minimum: 0 }) });
/** How long to wait for the verdict on what went to the bucket; without it, until there is one. */
const CompleteQuery = Type.Object({ wait_ms: Type.Optional(Type.Integer({ minimum: 0, maximum: 60_000 })) });
const ObjectParams = Type.Object({ sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }) });

function proofOf(request: FastifyRequest, ticketId: string): TicketProof {
  const { deviceId } = requireDevice(request);
  const token = request.headers['x-octomil-ticket'];
  if (typeof token !== 'string' || token === '') {
    throw new OctomilError('ticket_invalid', 'the header x-octomil-ticket with the ticket’s token is missing');
  }
  return { ticketId, token, deviceId };
}

function describe({ ticket, receivedParts }: UploadState): Record<string, unknown> {
  return {
    ticket_id: ticket.id,
    size_bytes: ticket.layout.sizeBytes,
    part_size_bytes: ticket.layout.partSizeBytes,
    part_count: ticket.layout.partCount,
    received_parts: receivedParts,
    expires_in_ms: ticket.expiresInMs,
    completed: ticket.verdict !== undefined,
    state: ticket.state === 'arrived' ? 'validating' : ticket.state,
  };
}

/** Parts of updates and the bytes of bases, for devices with their credential. */
export function registerTransferRoutes(app: App, { transfers, onRevoked }: TransferRoutesOptions): void {
  const pool = new BufferPool(DOWNLOAD_CHUNK_BYTES, 32);

  const config = { audit: false } as const;
  app.put(
    '/api/v1/transfers/:ticketId/parts/:part',
    { config, schema: { summary: 'Take one part of an update', tags: ['transfers'], params: PartParams } },
    async (request) => {
      const { body } = request;
      try {
        if (!(body instanceof Readable)) {
          throw new OctomilError(
            'invalid_input',
            'a part is sent as raw bytes with content-type application/octet-stream',
          );
        }
        const announced = request.headers['content-length'];
        return describe(
          await transfers.putPart(
            proofOf(request, request.params.ticketId),
            request.params.part,
            body.iterator({ destroyOnReturn: false }),
            announced === undefined ? undefined : Number(announced),
          ),
        );
      } finally {
        discardRest(request.raw);
      }
    },
  );

  app.get(
    '/api/v1/transfers/:ticketId',
    { schema: { summary: 'What has arrived of an update', tags: ['transfers'], params: TicketParams } },
    async (request) => describe(await transfers.state(proofOf(request, request.params.ticketId))),
  );

  app.post(
    '/api/v1/transfers/:ticketId/complete',
    {
      config,
      schema: {
        summary: 'All parts are there: check the update and count it',
        tags: ['transfers'],
        params: TicketParams,
        querystring: CompleteQuery,
      },
    },
    async (request) => {
      const proof = proofOf(request, request.params.ticketId);
      const { wait_ms: waitMs } = request.query;
      if (waitMs === undefined) return transfers.complete(proof);
      return (await transfers.completeSoon(proof, waitMs)) ?? { state: 'validating', retry_after_ms: 250 };
    },
  );

  app.get(
    '/api/v1/transfers/objects/:sha256',
    {
      exposeHeadRoute: false,
      schema: {
        summary: 'Bytes that a device was told to fetch, by their digest',
        tags: ['transfers'],
        params: ObjectParams,
      },
    },
    async (request, reply) => {
      const { sha256 } = request.params;
      const { deviceId } = requireDevice(request);
      const object = await transfers.openDownload(deviceId, sha256);
      const noLonger = onRevoked?.(deviceId, () => reply.raw.destroy());
      try {
        const etag = `"${sha256}"`;
        const unchanged = request.headers['if-range'] === undefined || request.headers['if-range'] === etag;
        let asked: ByteRange | undefined;
        try {
          asked = unchanged ? parseByteRange(request.headers.range, object.sizeBytes) : undefined;
        } catch (error) {
          reply.code(416).header('content-range', `bytes */${object.sizeBytes}`);
          return errorBody(toOctomilError(error), 416, request.id);
        }
        const range = asked ?? { start: 0, end: object.sizeBytes };
        reply.code(asked === undefined ? 200 : 206).headers({
          'content-type': 'application/octet-stream',
          'content-length': range.end - range.start,
          'accept-ranges': 'bytes',
          etag,
          ...(asked === undefined
            ? {}
            : { 'content-range': `bytes ${asked.start}-${asked.end - 1}/${object.sizeBytes}` }),
        });
        await streamReply(reply, range.end > range.start ? (send) => object.pump(range, pool, send) : undefined);
      } finally {
        noLonger?.();
        await object.release();
      }
      return reply;
    },
  );

  app.get(
    '/api/v1/transfers/objects/:sha256/address',
    {
      schema: {
        summary:
          'Where the bucket is that has those bytes, and a request that it answers for a while; null: they come from here',
        tags: ['transfers'],
        params: ObjectParams,
      },
    },
    async (request, reply) => {
      const { deviceId } = requireDevice(request);
      const address = await transfers.downloadAddress(deviceId, request.params.sha256);
      // Whoever has it reads the object.
      reply.header('cache-control', 'no-store');
      return address === undefined
        ? { url: null }
        : { url: address.url, headers: address.headers, expires_at: new Date(address.expiresAtMs).toISOString() };
    },
  );
}
