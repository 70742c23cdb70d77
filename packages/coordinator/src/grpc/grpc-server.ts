import { create } from '@bufbuild/protobuf';
import { Server, ServerCredentials, setLogger } from '@grpc/grpc-js';
import {
  AgentService,
  BULK_CODECS,
  EnrollResponseSchema,
  implement,
  type ServiceHandlers,
  UploadUpdateResponseSchema,
} from '@octomil/proto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { HealthImplementation } from 'grpc-health-check';
import type { AuditLog } from '../audit/audit-log.js';
import { type DeviceService, revoked } from '../devices/index.js';
import type { DesiredPort } from '../rollouts/index.js';
import type { AssignmentPort } from '../training/assignment-port.js';
import { BufferPool, type TransferService } from '../transfers/index.js';
import { download, upload } from './bulk-streams.js';
import type { SessionContext } from './device-session.js';
import { ReceiveWindow } from './receive-window.js';
import { Semaphore } from './semaphore.js';
import { authenticate, type SessionWelcome, serveSession } from './session-handler.js';
import { isCallersFault, toStatusError } from './status.js';
import { withoutNul } from './without-nul.js';

const MIB = 1024 * 1024;

export interface GrpcTls {
  /** PEM. */
  readonly certificate: string | Buffer;
  /** PEM. */
  readonly key: string | Buffer;
  /** PEM; when given, agents must show a certificate of this authority as well. */
  readonly clientCa?: string | Buffer;
}

export interface GrpcSettings extends SessionWelcome {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Allows plaintext on an address that others can reach. Default false. */
  readonly insecure?: boolean;
  /** Updates up to this come on the session's stream. Default 4 MiB. */
  readonly inlineUpdateMaxBytes?: number;
  /** HTTP/2 window of each stream and connection: memory a sender may fill. Default 8 MiB. */
  readonly windowBytes?: number;
  /** How long a stop waits for calls under way. Default 3,000. */
  readonly stopWithinMs?: number;
}

export interface GrpcServerOptions {
  readonly devices: DeviceService;
  readonly assignments: AssignmentPort;
  /** Tells devices what they should run, and takes what they do run. */
  readonly desired: DesiredPort;
  readonly transfers: TransferService;
  /** Where enrolments are written down. */
  readonly audit?: AuditLog;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly settings: GrpcSettings;
  /** Plaintext without it, which only a loopback address or `insecure` allows. */
  readonly tls?: GrpcTls;
}

export interface GrpcServer {
  /** `host:port`, once started. */
  readonly address: string;
  /** @throws `port_in_use`, `config_invalid` for plaintext off loopback or an unusable certificate */
  start(): Promise<void>;
  /** Sessions end with `network_unavailable`, so that agents look for another coordinator. */
  stop(): Promise<void>;
}

/** Besides the update itself, a message carries a header and its metrics. */
const MESSAGE_SLACK_BYTES = 2 * MIB;
const BULK_CHUNK_BYTES = MIB;
/** Updates from the stream that are taken at once, over all sessions. */
const INLINE_UPDATES_AT_ONCE = 16;

export function createGrpcServer(options: GrpcServerOptions): GrpcServer {
  const { devices, transfers, clock, logger, settings } = options;
  const inlineUpdateMaxBytes = settings.inlineUpdateMaxBytes ?? 4 * MIB;
  // The library's own lines would reach the terminal beside our error that says the same.
  setLogger({
    error: (...words: unknown[]) => logger.debug({ words: words.map(String) }, 'a word of the gRPC library'),
  });
  const server = new Server({
    'grpc.max_receive_message_length': inlineUpdateMaxBytes + MESSAGE_SLACK_BYTES,
    'grpc.max_send_message_length': -1,
    // Finds agents whose machine went away without a word; rare enough for any peer's ping limit.
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
  });
  const context: SessionContext = {
    devices,
    transfers,
    assignments: options.assignments,
    desired: options.desired,
    clock,
    logger,
    inlineUpdates: new Semaphore(INLINE_UPDATES_AT_ONCE),
    inlineUpdateMaxBytes,
  };
  const pool = new BufferPool(BULK_CHUNK_BYTES, 8);
  const health = new HealthImplementation({ '': 'NOT_SERVING', [AgentService.typeName]: 'NOT_SERVING' });
  const setHealth = (status: 'SERVING' | 'NOT_SERVING'): void => {
    for (const name of ['', AgentService.typeName]) health.setStatus(name, status);
  };
  const closing = new Set<Promise<void>>();
  const track = (work: Promise<void>): void => {
    closing.add(work);
    void work.finally(() => closing.delete(work));
  };
  const note = (thrown: unknown, call: string): void => {
    const error = toOctomilError(thrown);
    if (error.code === 'cancelled') return;
    if (isCallersFault(error)) logger.info({ call, code: error.code, reason: error.reason }, 'a call was refused');
    else logger.error({ call, error: thrown }, 'a call failed');
  };

  const handlers: ServiceHandlers<typeof AgentService> = {
    enroll: (call, callback) => {
      const { enrollmentToken, deviceIdentifier, labels, agentVersion } = withoutNul(call.request);
      const enrolled = devices
        .enroll({ enrollmentToken, deviceIdentifier, labels, agentVersion })
        .then(async (enrollment) => {
          const { organizationId, deviceId } = enrollment;
          await options.audit?.record({
            organizationId,
            actor: `device:${deviceId}`,
            action: 'grpc.Enroll',
            resource: `devices/${deviceId}`,
            details: { device_identifier: deviceIdentifier },
            remoteAddress: call.getPeer().replace(/:\d+$/, ''),
          });
          return enrollment;
        });
      enrolled.then(
        (enrollment) => callback(null, create(EnrollResponseSchema, enrollment)),
        (error: unknown) => {
          note(error, 'Enroll');
          callback(toStatusError(error));
        },
      );
    },
    session: (stream) => {
      try {
        serveSession(stream, context, settings, track);
      } catch (error) {
        note(error, 'Session');
        stream.emit('error', toStatusError(error));
      }
    },
    downloadModel: (call) => {
      authenticate(devices, call.metadata)
        .then(async (device) => {
          const cut = new AbortController();
          const release = devices.onRevoked(device.deviceId, () => cut.abort(revoked(device.deviceId)));
          try {
            await download(call, device, transfers, pool, cut.signal);
          } finally {
            release();
          }
        })
        .catch((error: unknown) => {
          note(error, 'DownloadModel');
          if (!call.destroyed) call.emit('error', toStatusError(error));
        });
    },
    uploadUpdate: (call, callback) => {
      authenticate(devices, call.metadata)
        .then((device) => upload(call, device, transfers, devices.hub))
        .then(
          (receivedBytes) =>
            callback(null, create(UploadUpdateResponseSchema, { receivedBytes: BigInt(receivedBytes) })),
          (error: unknown) => {
            note(error, 'UploadUpdate');
            callback(toStatusError(error));
          },
        );
    },
  };
  server.addService(...implement(AgentService, handlers, BULK_CODECS));
  health.addToServer(server);

  let address = '';
  let stopping: Promise<void> | undefined;

  const stop = async (): Promise<void> => {
    setHealth('NOT_SERVING');
    const reason = new OctomilError('network_unavailable', 'this coordinator is stopping; connect again');
    for (const session of devices.hub.all()) session.end(reason);
    const drained = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
    const late = new AbortController();
    await Promise.race([drained, clock.sleep(settings.stopWithinMs ?? 3000, late.signal).catch(() => undefined)]);
    late.abort();
    server.forceShutdown();
    await Promise.all(closing);
  };

  return {
    get address() {
      return address;
    },
    start: async () => {
      if (address !== '') return;
      const credentials = credentialsFor(settings, options.tls);
      const window = new ReceiveWindow(server, settings.windowBytes ?? 8 * MIB);
      const widened = window.widenStreams();
      const port = await bind(server, settings.host, settings.port, credentials);
      if (!widened || !window.widenConnections()) {
        logger.warn({}, 'this grpc-js does not let its receive windows be widened: uploads over gRPC will be slow');
      }
      address = `${bracketed(settings.host)}:${port}`;
      setHealth('SERVING');
    },
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
  };
}

function bracketed(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(?:\.\d{1,3}){3}$/.test(host);
}

function credentialsFor(settings: GrpcSettings, tls: GrpcTls | undefined): ServerCredentials {
  if (tls === undefined) {
    if (isLoopback(settings.host) || settings.insecure === true) return ServerCredentials.createInsecure();
    throw new OctomilError(
      'config_invalid',
      `gRPC on ${settings.host} without TLS would send credentials in the clear: set OCTOMIL_TLS_CERT and OCTOMIL_TLS_KEY, bind to 127.0.0.1, or set OCTOMIL_INSECURE=1 where something in front adds TLS`,
    );
  }
  try {
    const pair = { cert_chain: Buffer.from(tls.certificate), private_key: Buffer.from(tls.key) };
    return ServerCredentials.createSsl(
      tls.clientCa === undefined ? null : Buffer.from(tls.clientCa),
      [pair],
      tls.clientCa !== undefined,
    );
  } catch (error) {
    throw new OctomilError('config_invalid', 'the TLS certificate or key of OCTOMIL_TLS_CERT/KEY cannot be used', {
      cause: error,
    });
  }
}

function bind(server: Server, host: string, port: number, credentials: ServerCredentials): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`${bracketed(host)}:${port}`, credentials, (error, bound) => {
      if (error === null) {
        resolve(bound);
        return;
      }
      const inUse = error.message.includes('EADDRINUSE');
      reject(
        new OctomilError(
          inUse ? 'port_in_use' : 'config_invalid',
          inUse
            ? `gRPC port ${port} on ${host} is in use by another process; stop it or set OCTOMIL_GRPC_PORT`
            : `gRPC cannot listen on ${host}:${port}: ${error.message}`,
          { cause: error },
        ),
      );
    });
  });
}
