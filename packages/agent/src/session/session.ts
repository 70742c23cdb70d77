import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type HelloSchema, SessionRequestSchema, type SessionResponse, type Welcome } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { bearer, type CoordinatorClient } from '../connection/coordinator-client.js';
import { fromGrpcError, fromProblem } from '../connection/problem.js';
import type { OutgoingEvent, SessionDelegate, SessionLink } from './session-link.js';

export interface SessionOptions {
  readonly client: CoordinatorClient;
  readonly credential: string;
  readonly hello: MessageInitShape<typeof HelloSchema>;
  readonly delegate: SessionDelegate;
  readonly clock: Clock;
  /** Ends the session in good order. */
  readonly signal: AbortSignal;
}

/** How a session ended. */
export interface SessionEnd {
  /** The last epoch issued; undefined when no Welcome came. */
  readonly epoch: bigint | undefined;
  readonly reason: OctomilError;
}

const WELCOME_TIMEOUT_MS = 15_000;

/** Runs one session from Hello to its end. Never rejects: the end says why. */
export function runSession(options: SessionOptions): Promise<SessionEnd> {
  const { client, credential, hello, delegate, clock, signal } = options;
  const stream = client.session(bearer(credential));
  const { promise, resolve } = Promise.withResolvers<SessionEnd>();
  let welcome: Welcome | undefined;
  let over = false;
  let heardAtMs = clock.now();
  let callOffTimer = clock.after(WELCOME_TIMEOUT_MS, () =>
    end(
      new OctomilError('request_timeout', `the coordinator did not answer the hello within ${WELCOME_TIMEOUT_MS} ms`),
    ),
  );

  const end = (reason: OctomilError): void => {
    if (over) return;
    over = true;
    callOffTimer();
    signal.removeEventListener('abort', onAbort);
    if (welcome !== undefined) delegate.disconnected();
    // After `end`, what was written still goes out; the cancel a moment later frees a connection that is dead.
    stream.end();
    clock.after(500, () => stream.cancel());
    resolve({ epoch: welcome?.epoch, reason });
  };
  const onAbort = (): void => end(new OctomilError('cancelled', 'the agent is stopping'));

  const write = (event: OutgoingEvent): void => {
    if (!over) stream.write(create(SessionRequestSchema, { epoch: welcome?.epoch ?? 0n, event }));
  };

  const renew = (current: Welcome): void => {
    if (clock.now() - heardAtMs > 2 * current.leaseMs) {
      end(new OctomilError('network_unavailable', `the coordinator has been silent for ${2 * current.leaseMs} ms`));
      return;
    }
    write({ case: 'leaseRenewal', value: { inProgress: delegate.inProgress() } });
    delegate.renewalSent();
    callOffTimer = clock.after(current.renewEveryMs, () => renew(current));
  };

  const onWelcome = (value: Welcome): void => {
    welcome = value;
    callOffTimer();
    callOffTimer = clock.after(value.renewEveryMs, () => renew(value));
    link = { welcome: value, send: write };
    delegate.connected(link);
  };

  let link: SessionLink | undefined;
  stream.on('data', (response: SessionResponse) => {
    if (over) return;
    heardAtMs = clock.now();
    const { event } = response;
    if (event.case === 'welcome') onWelcome(event.value);
    else if (event.case === 'superseded') end(fromProblem(event.value.reason));
    else if (link !== undefined) {
      if (event.case === 'leaseRenewed') delegate.renewalAnswered();
      else delegate.received(event, link);
    }
  });
  stream.on('error', (error) => end(fromGrpcError(error)));
  stream.on('end', () => end(new OctomilError('network_unavailable', 'the coordinator ended the session')));

  if (signal.aborted) onAbort();
  else {
    signal.addEventListener('abort', onAbort, { once: true });
    write({ case: 'hello', value: hello });
  }
  return promise;
}
