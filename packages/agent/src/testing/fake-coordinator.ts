import { createHash, randomUUID } from 'node:crypto';
import {
  createServer as createHttpServer,
  type Server as HttpServer,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type Metadata, Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import {
  AgentService,
  type Assignment,
  AssignmentSchema,
  type DesiredModelSchema,
  DownloadModelResponseSchema,
  EnrollResponseSchema,
  errorMetadata,
  implement,
  type ObservedModel,
  type SessionRequest,
  type SessionResponse,
  SessionResponseSchema,
  type UpdateHeader,
  type UploadUpdateRequest,
  UploadUpdateResponseSchema,
} from '@octomil/proto';
import { ERROR_CODES, OctomilError } from '@octomil/shared/errors';

type Event = NonNullable<MessageInitShape<typeof SessionResponseSchema>['event']>;
type SessionStream = ServerDuplexStream<SessionRequest, SessionResponse>;

interface Ticket {
  readonly id: string;
  readonly token: string;
  readonly header: UpdateHeader;
  readonly bytes: Buffer;
  readonly received: Set<number>;
}

export interface FakeTls {
  readonly key: Buffer;
  readonly cert: Buffer;
}

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** The coordinator as far as an agent can tell, with every fault that a test wants. Nothing is stored. */
export class FakeCoordinator {
  readonly tokens = new Set<string>();
  readonly usedTokens = new Set<string>();
  readonly credentials = new Map<string, string>();
  readonly objects = new Map<string, Buffer>();
  readonly assignments = new Map<string, Assignment>();
  /** Everything the agent said on its sessions, in order. */
  readonly heard: SessionRequest['event'][] = [];
  /** Accepted updates by assignment id. */
  readonly updates = new Map<string, { bytes: Buffer; header: UpdateHeader }>();
  readonly tickets = new Map<string, Ticket>();
  readonly httpRequests: string[] = [];
  downloadsByGrpc = 0;
  uploadsByGrpc = 0;
  offersHttp = true;
  inlineMaxBytes = 4 * 1_048_576;
  leaseMs = 15_000;
  renewEveryMs = 5_000;
  partSizeBytes = 65_536;
  /** Called before each HTTP answer; true means that it has taken over the response. */
  onHttp: (request: IncomingMessage, response: ServerResponse) => boolean = () => false;
  /** Called on each Hello before Welcome; true means that it has answered itself. */
  onHello: (stream: SessionStream) => boolean = () => false;
  /** What devices should run; said after each Welcome once `desire` was called. */
  desiredModels: MessageInitShape<typeof DesiredModelSchema>[] | undefined;
  /** Leaves observed states without a receipt. */
  holdReceipts = false;
  /** Leaves an inline update without a verdict. */
  holdVerdicts = false;
  epoch = 0n;
  grpcPort = 0;
  httpPort = 0;
  readonly streams = new Set<SessionStream>();
  readonly #tls: FakeTls | undefined;
  #grpc: Server | undefined;
  #http: HttpServer | undefined;
  #waiting: (() => void)[] = [];

  constructor(tls?: FakeTls) {
    this.#tls = tls;
  }

  get address(): string {
    return `${this.#tls === undefined ? 'grpc' : 'grpcs'}://127.0.0.1:${this.grpcPort}`;
  }

  async start(): Promise<this> {
    const listener: RequestListener = (request, response) => void this.#serve(request, response);
    this.#http = this.#tls === undefined ? createHttpServer(listener) : createHttpsServer(this.#tls, listener);
    const http = this.#http;
    await new Promise<void>((resolve) => http.listen(this.httpPort, '127.0.0.1', resolve));
    this.httpPort = (http.address() as AddressInfo).port;
    this.#grpc = new Server({ 'grpc.max_receive_message_length': -1 });
    this.#grpc.addService(...implement(AgentService, this.#handlers()));
    const credentials =
      this.#tls === undefined
        ? ServerCredentials.createInsecure()
        : ServerCredentials.createSsl(null, [{ private_key: this.#tls.key, cert_chain: this.#tls.cert }]);
    const grpc = this.#grpc;
    this.grpcPort = await new Promise<number>((resolve, reject) => {
      grpc.bindAsync(`127.0.0.1:${this.grpcPort}`, credentials, (error, port) =>
        error ? reject(error) : resolve(port),
      );
    });
    return this;
  }

  /** Cuts every connection at once; `start` opens the same ports again. */
  async stop(): Promise<void> {
    this.#grpc?.forceShutdown();
    this.streams.clear();
    const http = this.#http;
    await new Promise<void>((resolve) => {
      http?.close(() => resolve());
      http?.closeAllConnections();
      if (http === undefined) resolve();
    });
  }

  token(): string {
    const token = `oet_${randomUUID()}`;
    this.tokens.add(token);
    return token;
  }

  addObject(bytes: Buffer): { sha256: string; sizeBytes: bigint } {
    const sha256 = sha256Of(bytes);
    this.objects.set(sha256, bytes);
    return { sha256, sizeBytes: BigInt(bytes.length) };
  }

  /** Opens an assignment and pushes it to whoever is in session. */
  assign(init: MessageInitShape<typeof AssignmentSchema>): Assignment {
    const assignment = create(AssignmentSchema, {
      federation: 'heart',
      modelName: 'risk',
      roundNumber: 1,
      totalRounds: 1,
      deadlineMs: 60_000n,
      updateFormat: 'delta',
      kind: 'train',
      taskJson: '{"trainer":"echo"}',
      ...init,
    });
    this.assignments.set(assignment.ref?.assignmentId ?? '', assignment);
    this.push({ case: 'assignment', value: assignment });
    return assignment;
  }

  /** Says what devices should run, now and after each Welcome. */
  desire(...models: MessageInitShape<typeof DesiredModelSchema>[]): void {
    this.desiredModels = models;
    this.push({ case: 'desiredState', value: { digest: '', models } });
  }

  /** What the device said last of a model. */
  observed(modelId: string): ObservedModel | undefined {
    return this.of('observedState')
      .at(-1)
      ?.models.find((model) => model.modelId === modelId);
  }

  push(event: Event): void {
    for (const stream of this.streams) stream.write(create(SessionResponseSchema, { event }));
  }

  of<C extends NonNullable<SessionRequest['event']['case']>>(name: C) {
    return this.heard.flatMap((event) => (event.case === name ? [event.value] : [])) as Extract<
      SessionRequest['event'],
      { case: C }
    >['value'][];
  }

  /**
   * Resolves when `condition` holds; looked at whenever the agent does something.
   *
   * @throws OctomilError `request_timeout` after 15 s, so that a failing test ends and takes its processes down
   */
  async until(condition: () => boolean): Promise<void> {
    const startedAtMs = Date.now();
    while (!condition()) {
      if (Date.now() - startedAtMs > 15_000) throw new OctomilError('request_timeout', `never happened: ${condition}`);
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
        setTimeout(resolve, 25).unref();
      });
    }
  }

  #changed(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  #authenticate(metadata: Metadata): string | undefined {
    const [value] = metadata.get('authorization');
    return this.credentials.get(String(value ?? '').replace('Bearer ', ''));
  }

  #handlers(): Parameters<typeof implement<typeof AgentService>>[1] {
    return {
      enroll: (call, callback) => {
        const { enrollmentToken, deviceIdentifier } = call.request;
        if (this.usedTokens.has(enrollmentToken)) {
          callback(failure(new OctomilError('enrollment_token_used', 'this enrolment token was used already')));
        } else if (!this.tokens.has(enrollmentToken)) {
          callback(failure(new OctomilError('enrollment_token_invalid', 'there is no such enrolment token')));
        } else {
          this.usedTokens.add(enrollmentToken);
          const credential = `odc_${randomUUID()}`;
          this.credentials.set(credential, deviceIdentifier);
          callback(
            null,
            create(EnrollResponseSchema, { deviceId: `id-${deviceIdentifier}`, organizationId: 'org', credential }),
          );
        }
      },
      session: (stream) => {
        const device = this.#authenticate(stream.metadata);
        if (device === undefined) {
          stream.emit(
            'error',
            failure(new OctomilError('authentication_failed', 'this device credential is not known')),
          );
          return;
        }
        stream.on('data', (request: SessionRequest) => this.#hear(stream, device, request));
        stream.on('end', () => stream.end());
        stream.on('error', () => undefined);
        stream.on('close', () => this.streams.delete(stream));
      },
      downloadModel: (call) => {
        this.downloadsByGrpc += 1;
        const bytes = this.objects.get(call.request.model?.sha256 ?? '');
        if (bytes === undefined) {
          call.emit('error', failure(new OctomilError('not_found', 'no such base')));
          return;
        }
        for (let offset = Number(call.request.offset); offset < bytes.length; offset += 50_000) {
          call.write(
            create(DownloadModelResponseSchema, {
              offset: BigInt(offset),
              data: bytes.subarray(offset, offset + 50_000),
            }),
          );
        }
        call.end();
      },
      uploadUpdate: (call, callback) => {
        this.uploadsByGrpc += 1;
        let ticket: Ticket | undefined;
        let received = 0;
        call.on('data', ({ content }: UploadUpdateRequest) => {
          if (content.case === 'header') ticket = this.tickets.get(content.value.ticketId);
          else if (content.case === 'chunk' && ticket !== undefined) {
            ticket.bytes.set(content.value.data, Number(content.value.offset));
            received += content.value.data.length;
          }
        });
        call.on('end', () => {
          callback(null, create(UploadUpdateResponseSchema, { receivedBytes: BigInt(received) }));
          if (ticket !== undefined) this.#judge(ticket.header, ticket.bytes);
        });
      },
    };
  }

  #hear(stream: SessionStream, device: string, request: SessionRequest): void {
    const { event } = request;
    this.heard.push(event);
    if (event.case === 'hello') this.#welcome(stream, device);
    else if (event.case === 'leaseRenewal') {
      stream.write(
        create(SessionResponseSchema, { event: { case: 'leaseRenewed', value: { leaseMs: this.leaseMs } } }),
      );
    } else if (event.case === 'observedState') {
      const receipt = create(SessionResponseSchema, { event: { case: 'observedReceipt', value: {} } });
      if (!this.holdReceipts) stream.write(receipt);
    } else if (event.case === 'inlineUpdate' && event.value.header !== undefined) {
      if (!this.holdVerdicts) this.#judge(event.value.header, Buffer.from(event.value.data));
    } else if (event.case === 'ticketRequest' && event.value.header !== undefined) this.#giveTicket(event.value.header);
    else if (event.case === 'report' || event.case === 'assignmentFailure') {
      this.assignments.delete(event.value.assignment?.assignmentId ?? '');
    } else if (event.case === 'assignmentAnswer' && event.value.answer.case === 'refused') {
      this.assignments.delete(event.value.assignment?.assignmentId ?? '');
    }
    this.#changed();
  }

  #welcome(stream: SessionStream, device: string): void {
    if (this.onHello(stream)) return;
    this.epoch += 1n;
    this.streams.add(stream);
    const scheme = this.#tls === undefined ? 'http' : 'https';
    const write = (event: Event): boolean => stream.write(create(SessionResponseSchema, { event }));
    write({
      case: 'welcome',
      value: {
        epoch: this.epoch,
        deviceId: `id-${device}`,
        organizationId: 'org',
        leaseMs: this.leaseMs,
        renewEveryMs: this.renewEveryMs,
        inlineUpdateMaxBytes: BigInt(this.inlineMaxBytes),
        transferUrl: this.offersHttp ? `${scheme}://127.0.0.1:${this.httpPort}` : '',
      },
    });
    if (this.desiredModels !== undefined) {
      write({ case: 'desiredState', value: { digest: '', models: this.desiredModels } });
    }
    for (const assignment of this.assignments.values()) write({ case: 'assignment', value: assignment });
  }

  #giveTicket(header: UpdateHeader): void {
    const known = [...this.tickets.values()].find(
      ({ header: { sha256, assignment } }) =>
        sha256 === header.sha256 && assignment?.assignmentId === header.assignment?.assignmentId,
    );
    const ticket: Ticket = known ?? {
      id: randomUUID(),
      token: randomUUID(),
      header,
      bytes: Buffer.alloc(Number(header.sizeBytes)),
      received: new Set(),
    };
    this.tickets.set(ticket.id, ticket);
    this.push({
      case: 'uploadTicket',
      value: {
        ...(header.assignment === undefined ? {} : { assignment: header.assignment }),
        ticketId: ticket.id,
        token: ticket.token,
        partSizeBytes: BigInt(this.partSizeBytes),
        partCount: Math.ceil(ticket.bytes.length / this.partSizeBytes),
        receivedParts: [...ticket.received],
        expiresInMs: 60_000n,
      },
    });
  }

  #judge(header: UpdateHeader, bytes: Buffer): boolean {
    const id = header.assignment?.assignmentId ?? '';
    const accepted = sha256Of(bytes) === header.sha256;
    if (accepted) {
      this.updates.set(id, { bytes, header });
      this.assignments.delete(id);
    }
    this.push({
      case: 'updateVerdict',
      value: {
        ...(header.assignment === undefined ? {} : { assignment: header.assignment }),
        verdict: accepted
          ? { case: 'accepted', value: {} }
          : { case: 'rejected', value: { code: 'update_rejected', message: 'the digest is another one' } },
      },
    });
    this.#changed();
    return accepted;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.httpRequests.push(`${request.method} ${request.url}`);
    this.#changed();
    if (this.onHttp(request, response)) return;
    const [path = ''] = (request.url ?? '').split('?');
    const [, , , , first = '', second, third] = path.split('/');
    const answer = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    };
    if (first === 'objects') {
      const bytes = this.objects.get(second ?? '');
      const known = this.credentials.has((request.headers.authorization ?? '').replace('Bearer ', ''));
      if (bytes === undefined || !known) return answer(404, { code: 'not_found', message: 'no such base' });
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, { 'content-length': bytes.length - from }).end(bytes.subarray(from));
      return;
    }
    const ticket = this.tickets.get(first);
    if (ticket === undefined || request.headers['x-octomil-ticket'] !== ticket.token) {
      return answer(403, { code: 'ticket_invalid', message: 'no such ticket' });
    }
    if (second === 'complete') {
      const accepted = this.#judge(ticket.header, ticket.bytes);
      return answer(
        200,
        accepted ? { accepted } : { accepted, reason: { code: 'update_rejected', message: 'digest' } },
      );
    }
    const part = Number(third);
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      return;
    }
    ticket.bytes.set(Buffer.concat(chunks), part * this.partSizeBytes);
    ticket.received.add(part);
    answer(200, { received_parts: [...ticket.received] });
  }
}

function failure(error: OctomilError) {
  return Object.assign(error, {
    code: ERROR_CODES[error.code].grpc as never,
    details: error.reason,
    metadata: errorMetadata(error.toBody()),
  });
}
