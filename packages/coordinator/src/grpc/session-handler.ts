import type { Metadata } from '@grpc/grpc-js';
import type { Hello, SessionRequest } from '@octomil/proto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { DeviceIdentity, DeviceService } from '../devices/index.js';
import { requireTokenScope } from '../http/index.js';
import { DeviceSession, type SessionContext, type SessionStream } from './device-session.js';
import { isCallersFault, toStatusError } from './status.js';
import { say } from './wire-fields.js';
import { withoutNul } from './without-nul.js';

export interface SessionWelcome {
  /** Base URL of HTTP transfers; read at each hello, since a free port is known only once it is bound. */
  readonly transferUrl: () => string;
  readonly coordinatorVersion: string;
}

/** How long a stream may stay silent before its hello. */
const HELLO_WITHIN_MS = 10_000;

/** The device behind a call's credential. @throws `authentication_failed`, `token_expired`, `device_revoked`, `forbidden` */
export async function authenticate(devices: DeviceService, metadata: Metadata): Promise<DeviceIdentity> {
  const [value] = metadata.get('authorization');
  const credential = typeof value === 'string' ? /^Bearer (\S+)$/i.exec(value)?.[1] : undefined;
  if (credential === undefined) {
    throw new OctomilError(
      'authentication_failed',
      'this call needs the device credential as metadata `authorization: Bearer odc_…`; enrol the device to get one',
    );
  }
  const identity = await devices.authenticate(credential);
  requireTokenScope(identity, 'devices:write');
  return identity;
}

/**
 * Serves one stream from hello to end. Everything that goes wrong becomes the stream's status.
 *
 * @param track told of the work that outlives the stream (giving the device back), so that a stop can wait for it
 */
export function serveSession(
  stream: SessionStream,
  context: SessionContext,
  welcome: SessionWelcome,
  track: (work: Promise<void>) => void,
): void {
  const { clock, devices, logger } = context;
  let session: DeviceSession | undefined;
  let gone = false;

  const fail = (thrown: unknown): void => {
    const error = toOctomilError(thrown);
    if (isCallersFault(error)) logger.info({ code: error.code, reason: error.reason }, 'a session was refused');
    else logger.error({ error: thrown }, 'a session failed to open');
    if (!gone) stream.emit('error', toStatusError(error));
  };

  const giveBack = async (held: DeviceSession): Promise<void> => {
    held.closed();
    devices.hub.remove(held);
    context.desired.closed(held);
    await devices
      .closeSession(held)
      .catch((error: unknown) => logger.warn({ error, deviceId: held.deviceId }, 'a device was not given back'));
  };

  const onGone = (): void => {
    if (gone) return;
    gone = true;
    cancelHello();
    if (session !== undefined) track(giveBack(session));
  };

  const open = async (hello: Hello, device: DeviceIdentity): Promise<void> => {
    const epoch = await devices.openSession(device.deviceId, hello);
    const opened = new DeviceSession(context, stream, device, epoch);
    if (gone) return giveBack(opened);
    session = opened;
    const replaced = devices.hub.add(opened);
    const current = devices.hub.get(device.deviceId)?.epoch ?? epoch;
    replaced?.end(
      new OctomilError('superseded', `a newer stream of this device took the place of epoch ${replaced.epoch}`, {
        details: { epoch: replaced.epoch, current },
      }),
    );
    // Of two that opened at once, the other one has the newer epoch: what devices run is told to that one.
    if (replaced === opened) return;
    stream.write(
      say.welcome({
        epoch: BigInt(epoch),
        deviceId: device.deviceId,
        organizationId: device.organizationId,
        leaseMs: devices.leaseMs,
        renewEveryMs: Math.floor(devices.leaseMs / 3),
        inlineUpdateMaxBytes: BigInt(context.inlineUpdateMaxBytes),
        transferUrl: welcome.transferUrl(),
        coordinatorVersion: welcome.coordinatorVersion,
      }),
    );
    opened.claim(hello.inProgress);
    context.desired.opened(opened);
    opened.wake();
  };

  const cancelHello = clock.after(HELLO_WITHIN_MS, () =>
    fail(new OctomilError('request_timeout', `no Hello arrived within ${HELLO_WITHIN_MS} ms of opening the session`)),
  );
  stream.on('cancelled', onGone);
  stream.on('close', onGone);
  stream.on('error', onGone);
  stream.on('end', () => {
    onGone();
    stream.end();
  });

  const identified = authenticate(devices, stream.metadata);
  identified.catch(fail);
  let opening: Promise<void> | undefined;
  stream.on('data', (received: SessionRequest) => {
    const request = withoutNul(received);
    if (session !== undefined) {
      session.receive(request);
      return;
    }
    if (opening !== undefined || gone) {
      if (!gone) fail(new OctomilError('invalid_input', 'the agent spoke before its Welcome'));
      return;
    }
    cancelHello();
    const { event } = request;
    if (event.case !== 'hello') {
      fail(
        new OctomilError(
          'invalid_input',
          `a session begins with Hello, not with ${event.case ?? 'an unknown message'}`,
        ),
      );
      return;
    }
    const hello = event.value;
    opening = identified.then(
      (device) => open(hello, device).catch(fail),
      // Reported above.
      () => undefined,
    );
  });
}
