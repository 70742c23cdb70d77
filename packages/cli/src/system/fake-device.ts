import { createHash, randomUUID } from 'node:crypto';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type ClientDuplexStream, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import {
  AgentService,
  type Assignment,
  AssignmentRefSchema,
  connectService,
  type EnrollResponse,
  errorBodyOf,
  type ServiceClient,
  type SessionRequest,
  SessionRequestSchema,
  type SessionResponse,
  type UpdateHeader,
  UpdateHeaderSchema,
} from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';

type Client = ServiceClient<typeof AgentService>;
type Said = NonNullable<MessageInitShape<typeof SessionRequestSchema>['event']>;
type Heard = SessionResponse['event'];
type HeardOf<C extends Heard['case']> = Extract<Heard, { case: C }>['value'];

export interface HeaderFields {
  readonly format?: string;
  readonly sizeBytes?: number;
  readonly sha256?: string;
  readonly sampleCount?: number;
  readonly assignment?: { readonly assignmentId: string; readonly attempt: number };
}

export function refOf({ ref }: Assignment): { assignmentId: string; attempt: number } {
  return { assignmentId: ref?.assignmentId ?? '', attempt: ref?.attempt ?? 0 };
}

function toError(error: ServiceError): OctomilError {
  return OctomilError.fromBody(errorBodyOf(error) ?? { code: 'unknown', message: `${error.code} ${error.details}` });
}

/** What only a faulty or hostile agent would send: the contract by hand. */
export class FakeDevice {
  readonly credential: string;
  readonly deviceId: string;
  readonly #client: Client;
  #stream: ClientDuplexStream<SessionRequest, SessionResponse> | undefined;
  #heard: Heard[] = [];
  readonly #waiting: { kinds: readonly Heard['case'][]; resolve: (event: Heard) => void }[] = [];
  epoch = 0n;
  /** The error that ended the stream; undefined for a plain end. */
  over: Promise<OctomilError | undefined> = Promise.resolve(undefined);

  private constructor(client: Client, enrolled: { credential: string; deviceId: string }) {
    this.#client = client;
    this.credential = enrolled.credential;
    this.deviceId = enrolled.deviceId;
  }

  /** @throws OctomilError what the coordinator answers */
  static enroll(address: string, enrollmentToken: string, deviceIdentifier: string): Promise<FakeDevice> {
    const client = connectService(AgentService, address, credentials.createInsecure());
    return new Promise((resolve, reject) => {
      client.enroll(
        { enrollmentToken, deviceIdentifier, labels: {}, agentVersion: '0.1.0' },
        new Metadata(),
        {},
        (error: ServiceError | null, answer?: EnrollResponse) => {
          if (error === null && answer !== undefined) resolve(new FakeDevice(client, answer));
          else {
            client.close();
            reject(error === null ? new OctomilError('unknown', 'no answer') : toError(error));
          }
        },
      );
    });
  }

  /** Opens a session that offers the echo trainer to everybody. @throws OctomilError what ends it before its Welcome */
  async connect(hello: { processId?: string; credential?: string } = {}): Promise<void> {
    const metadata = new Metadata();
    metadata.set('authorization', `Bearer ${hello.credential ?? this.credential}`);
    const stream = this.#client.session(metadata);
    this.#stream = stream;
    this.#heard = [];
    this.#waiting.length = 0;
    this.epoch = 0n;
    this.over = new Promise((resolve) => {
      stream.on('error', (error: ServiceError) => resolve(toError(error)));
      stream.on('end', () => resolve(undefined));
    });
    stream.on('data', ({ event }: SessionResponse) => {
      const index = this.#waiting.findIndex(({ kinds }) => kinds.includes(event.case));
      if (index < 0) this.#heard.push(event);
      else this.#waiting.splice(index, 1)[0]?.resolve(event);
    });
    const everything = { name: 'everything', federations: ['*'], models: ['*'], dataSets: ['*'] };
    this.say({
      case: 'hello',
      value: {
        processId: hello.processId ?? randomUUID(),
        agentVersion: '0.1.0',
        hostName: 'fake',
        capabilities: { trainers: ['echo'] },
        site: { dataSets: [], policyRules: [everything] },
      },
    });
    const first = await Promise.race([this.hear('welcome'), this.over]);
    if (first === undefined || first instanceof OctomilError) {
      throw first ?? new OctomilError('unknown', 'the session ended without a Welcome');
    }
    this.epoch = first.epoch;
    const renewing = setInterval(() => this.say({ case: 'leaseRenewal', value: {} }), first.renewEveryMs);
    void this.over.then(() => clearInterval(renewing));
  }

  say(event: Said, epoch = this.epoch): void {
    this.#stream?.write(create(SessionRequestSchema, { epoch, event }));
  }

  /** The next message of one of these kinds that was not taken yet. */
  async hear<C extends NonNullable<Heard['case']>>(...kinds: C[]): Promise<HeardOf<C>> {
    const index = this.#heard.findIndex((event) => (kinds as Heard['case'][]).includes(event.case));
    const event =
      index >= 0
        ? this.#heard.splice(index, 1)[0]
        : await new Promise<Heard>((resolve) => this.#waiting.push({ kinds, resolve }));
    return event?.value as HeardOf<C>;
  }

  async nextAssignment(): Promise<Assignment> {
    const assignment = await this.hear('assignment');
    this.say({
      case: 'assignmentAnswer',
      value: { assignment: assignment.ref, answer: { case: 'accepted', value: {} } },
    });
    return assignment;
  }

  header(assignment: Assignment, bytes: Uint8Array, fields: HeaderFields = {}): UpdateHeader {
    return create(UpdateHeaderSchema, {
      assignment: create(AssignmentRefSchema, fields.assignment ?? refOf(assignment)),
      format: fields.format ?? assignment.updateFormat,
      sizeBytes: BigInt(fields.sizeBytes ?? bytes.length),
      sha256: fields.sha256 ?? createHash('sha256').update(bytes).digest('hex'),
      sampleCount: BigInt(fields.sampleCount ?? 10),
      metricsJson: '{}',
    });
  }

  /** Sends an update and waits for what is said to it: a verdict, or an objection. */
  async submit(
    assignment: Assignment,
    bytes: Uint8Array,
    fields: HeaderFields = {},
  ): Promise<{ accepted: true } | { accepted: false; code: string; message: string }> {
    this.say({ case: 'inlineUpdate', value: { header: this.header(assignment, bytes, fields), data: bytes } });
    return this.verdict();
  }

  async verdict(): Promise<{ accepted: true } | { accepted: false; code: string; message: string }> {
    const said = await this.hear('updateVerdict', 'problemNotice');
    const problem =
      'verdict' in said ? (said.verdict.case === 'rejected' ? said.verdict.value : undefined) : said.problem;
    return problem === undefined
      ? { accepted: true }
      : { accepted: false, code: problem.code, message: problem.message };
  }

  async disconnect(): Promise<void> {
    this.#stream?.end();
    await this.over;
  }

  async close(): Promise<void> {
    await this.disconnect();
    this.#client.close();
  }
}
