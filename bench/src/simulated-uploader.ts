import { randomUUID } from 'node:crypto';
import { Agent, request } from 'node:http';
import { create } from '@bufbuild/protobuf';
import { credentials, Metadata } from '@grpc/grpc-js';
import {
  AgentService,
  type Assignment,
  connectService,
  type SessionRequest,
  SessionRequestSchema,
  type SessionResponse,
  type UploadTicket,
} from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import { mintToken } from './agent-processes.js';
import type { CoordinatorProcess } from './coordinator-process.js';

export interface SimulatedUploader {
  downloadBase(): Promise<Uint8Array>;
  /** Asks for a ticket, sends every part and completes the upload. */
  upload(bytes: Uint8Array, sha256: string): Promise<void>;
  close(): void;
}

interface UploaderOptions {
  readonly coordinator: CoordinatorProcess;
  readonly apiKey: string;
  readonly index: number;
}

/** A device without an agent around it: a session that accepts its assignment and uploads what it is given. */
export async function connectUploader({ coordinator, apiKey, index }: UploaderOptions): Promise<SimulatedUploader> {
  const service = connectService(AgentService, coordinator.grpcAddress, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
  });
  const enrollmentToken = await mintToken(coordinator.restUrl, apiKey);
  const credential = await new Promise<string>((resolve, reject) => {
    service.enroll(
      { enrollmentToken, deviceIdentifier: `simulated-${index}`, agentVersion: 'bench' },
      new Metadata(),
      {},
      (error, response) => (error === null ? resolve(response?.credential ?? '') : reject(error)),
    );
  });
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${credential}`);
  const stream = service.session(metadata);
  let epoch = 0n;
  const send = (event: SessionRequest['event']): void => {
    stream.write(create(SessionRequestSchema, { epoch, event }));
  };
  const welcomed = Promise.withResolvers<void>();
  const assigned = Promise.withResolvers<Assignment>();
  const ticketed = Promise.withResolvers<UploadTicket>();
  let renewal: NodeJS.Timeout | undefined;
  stream.on('error', (error) => {
    for (const waiting of [welcomed, assigned, ticketed]) waiting.reject(error);
  });
  stream.on('data', ({ event }: SessionResponse) => {
    if (event.case === 'welcome') {
      epoch = event.value.epoch;
      renewal = setInterval(
        () => send({ case: 'leaseRenewal', value: { $typeName: 'octomil.v1.LeaseRenewal', inProgress: [] } }),
        event.value.renewEveryMs,
      );
      welcomed.resolve();
    } else if (event.case === 'assignment') assigned.resolve(event.value);
    else if (event.case === 'uploadTicket') ticketed.resolve(event.value);
  });
  stream.write(
    create(SessionRequestSchema, {
      event: {
        case: 'hello',
        value: {
          agentVersion: 'bench',
          processId: randomUUID(),
          hostName: 'bench',
          capabilities: { trainers: ['echo'] },
          site: { policyRules: [{ name: 'all', federations: ['*'], models: ['*'], dataSets: ['*'] }] },
        },
      },
    }),
  );
  await welcomed.promise;
  const connections = new Agent({ keepAlive: true, maxSockets: 1 });
  const call = (method: string, path: string, headers: Record<string, string>, body?: Uint8Array): Promise<Buffer> =>
    exchange(
      connections,
      `${coordinator.restUrl}${path}`,
      method,
      { authorization: `Bearer ${credential}`, ...headers },
      body,
    );

  return {
    downloadBase: async () => {
      const { base } = await assigned.promise;
      return call('GET', `/api/v1/transfers/objects/${base?.sha256}`, {});
    },
    upload: async (bytes, sha256) => {
      const { ref } = await assigned.promise;
      if (ref === undefined) throw new OctomilError('internal', 'an assignment came without a reference');
      stream.write(
        create(SessionRequestSchema, {
          epoch,
          event: { case: 'assignmentAnswer', value: { assignment: ref, answer: { case: 'accepted', value: {} } } },
        }),
      );
      stream.write(
        create(SessionRequestSchema, {
          epoch,
          event: {
            case: 'ticketRequest',
            value: {
              header: {
                assignment: ref,
                format: 'weights',
                sizeBytes: BigInt(bytes.length),
                sha256,
                sampleCount: 100n,
                metricsJson: '{}',
              },
            },
          },
        }),
      );
      const ticket = await ticketed.promise;
      const partSize = Number(ticket.partSizeBytes);
      const headers = { 'x-octomil-ticket': ticket.token };
      for (let part = 0; part < ticket.partCount; part += 1) {
        const body = bytes.subarray(part * partSize, (part + 1) * partSize);
        await call('PUT', `/api/v1/transfers/${ticket.ticketId}/parts/${part}`, headers, body);
      }
      await call('POST', `/api/v1/transfers/${ticket.ticketId}/complete`, headers);
    },
    close: () => {
      clearInterval(renewal);
      stream.end();
      service.close();
      connections.destroy();
    },
  };
}

function exchange(
  agent: Agent,
  url: string,
  method: string,
  headers: Record<string, string>,
  body?: Uint8Array,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const type = body === undefined ? {} : { 'content-type': 'application/octet-stream' };
    const outgoing = request(
      url,
      { method, agent, headers: { ...type, ...headers, 'content-length': String(body?.length ?? 0) } },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const answer = Buffer.concat(chunks);
          const status = response.statusCode ?? 0;
          if (status < 300) resolve(answer);
          else reject(new OctomilError('download_failed', `${method} ${url} answered ${status}: ${answer.toString()}`));
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
