import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type ClientDuplexStream, Metadata, type ServiceError } from '@grpc/grpc-js';
import {
  type AgentService,
  errorBodyOf,
  type ServiceClient,
  type SessionRequest,
  SessionRequestSchema,
  type SessionResponse,
  type Welcome,
} from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';

export type AgentClient = ServiceClient<typeof AgentService>;
type Event = NonNullable<MessageInitShape<typeof SessionRequestSchema>['event']>;
type Answer<C extends SessionResponse['event']['case']> = Extract<SessionResponse['event'], { case: C }>['value'];

export function bearer(credential: string): Metadata {
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${credential}`);
  return metadata;
}

/** The error a failed call carries, rebuilt from its metadata. */
export function errorOf(error: ServiceError): OctomilError {
  return OctomilError.fromBody(errorBodyOf(error) ?? { code: 'unknown', message: `${error.code} ${error.details}` });
}

/** The agent's end of a session, for tests: says what it is told to, and waits for answers by their kind. */
export class SessionPeer {
  readonly stream: ClientDuplexStream<SessionRequest, SessionResponse>;
  epoch = 0n;
  readonly #received: SessionResponse['event'][] = [];
  readonly #waiting: {
    matches: (event: SessionResponse['event']) => boolean;
    resolve: (event: SessionResponse['event']) => void;
  }[] = [];
  /** Settles when the stream is over: with the error it carried, if any. */
  readonly over: Promise<OctomilError | undefined>;

  constructor(client: AgentClient, credential: string) {
    this.stream = client.session(bearer(credential));
    this.over = new Promise((resolve) => {
      this.stream.on('error', (error: ServiceError) => resolve(errorOf(error)));
      this.stream.on('end', () => resolve(undefined));
    });
    this.stream.on('data', (response: SessionResponse) => {
      const index = this.#waiting.findIndex(({ matches }) => matches(response.event));
      if (index < 0) this.#received.push(response.event);
      else this.#waiting.splice(index, 1)[0]?.resolve(response.event);
    });
  }

  say(event: Event): void {
    this.stream.write(create(SessionRequestSchema, { epoch: this.epoch, event }));
  }

  async hello(
    processId: string,
    more: {
      hostName?: string;
      inProgress?: { assignmentId: string; attempt: number }[];
      site?: { labels: Record<string, string> };
    } = {},
  ): Promise<Welcome> {
    this.say({ case: 'hello', value: { processId, agentVersion: '0.1.0', hostName: 'host-1', ...more } });
    const welcome = await Promise.race([this.next('welcome'), this.over]);
    if (welcome instanceof OctomilError || welcome === undefined)
      throw welcome ?? new OctomilError('unknown', 'the stream ended');
    this.epoch = welcome.epoch;
    return welcome;
  }

  /** The next message of this kind that no one has taken yet. */
  async next<C extends NonNullable<SessionResponse['event']['case']>>(kind: C): Promise<Answer<C>> {
    const index = this.#received.findIndex((event) => event.case === kind);
    const event =
      index >= 0
        ? this.#received.splice(index, 1)[0]
        : await new Promise<SessionResponse['event']>((resolve) =>
            this.#waiting.push({ matches: ({ case: name }) => name === kind, resolve }),
          );
    return event?.value as Answer<C>;
  }

  /** Messages of this kind that have come and were not taken. */
  pending(kind: SessionResponse['event']['case']): number {
    return this.#received.filter((event) => event.case === kind).length;
  }

  async close(): Promise<void> {
    this.stream.end();
    await this.over;
  }
}
