import type { MessageInitShape } from '@bufbuild/protobuf';
import type { SessionRequestSchema, SessionResponse, Welcome } from '@octomil/proto';

/** One event for the coordinator; the session adds its epoch. */
export type OutgoingEvent = NonNullable<MessageInitShape<typeof SessionRequestSchema>['event']>;
export type IncomingEvent = SessionResponse['event'];

/** A session that was welcomed. After it is cut, sending does nothing. */
export interface SessionLink {
  readonly welcome: Welcome;
  send(event: OutgoingEvent): void;
}

/** What the session asks of those who work. */
export interface SessionDelegate {
  /** Assignments that are being worked on, for Hello and every lease renewal. */
  inProgress(): { assignmentId: string; attempt: number }[];
  connected(link: SessionLink): void;
  received(event: IncomingEvent, link: SessionLink): void;
  /** A lease renewal went out, or its answer came: everything sent before the renewal has arrived. */
  renewalSent(): void;
  renewalAnswered(): void;
  disconnected(): void;
}
