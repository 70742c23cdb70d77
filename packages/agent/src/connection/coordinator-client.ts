import { readFileSync } from 'node:fs';
import { type ChannelCredentials, type ChannelOptions, credentials, Metadata } from '@grpc/grpc-js';
import { AgentService, BULK_CODECS, connectService, type ServiceClient } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import { hostPort } from '../config/address.js';
import type { AgentConfig } from '../config/agent-config.js';
import { proxyFor } from '../config/proxy.js';

export type CoordinatorClient = ServiceClient<typeof AgentService>;

/** What of the configuration says how the coordinator is reached. */
export type ConnectionSettings = Pick<AgentConfig, 'coordinator' | 'tls' | 'proxy' | 'insecure'>;

const MIB = 1_048_576;

/** Key, certificate and authority as Node's TLS takes them. */
export interface TlsMaterial {
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
}

/** Read at every connection, so that renewed files are taken up without a restart. */
export function readTlsMaterial({ tls }: Pick<AgentConfig, 'tls'>): TlsMaterial {
  try {
    return {
      ...(tls.caPath === undefined ? {} : { ca: readFileSync(tls.caPath) }),
      ...(tls.certificatePath === undefined ? {} : { cert: readFileSync(tls.certificatePath) }),
      ...(tls.keyPath === undefined ? {} : { key: readFileSync(tls.keyPath) }),
    };
  } catch (error) {
    throw new OctomilError('config_invalid', `a TLS file cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function channelCredentials(settings: ConnectionSettings): ChannelCredentials {
  if (!settings.coordinator.tls) return credentials.createInsecure();
  const { ca, cert, key } = readTlsMaterial(settings);
  return credentials.createSsl(ca ?? null, key ?? null, cert ?? null);
}

/**
 * Opens a client with a connection of its own: nothing is shared between two clients, neither sockets nor the library's
 * reconnect delay, because the session loop has its own.
 *
 * @throws OctomilError `config_invalid` when a TLS file cannot be read any more
 */
export function openCoordinatorClient(settings: ConnectionSettings): CoordinatorClient {
  const target = `dns:${hostPort(settings.coordinator)}`;
  const proxy = proxyFor(settings.proxy, settings.coordinator);
  const options: ChannelOptions = {
    'grpc.use_local_subchannel_pool': 1,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2_000,
    'grpc.max_receive_message_length': 16 * MIB,
    'grpc.max_send_message_length': 16 * MIB,
    'grpc-node.flow_control_window': 8 * MIB,
    'grpc.enable_retries': 0,
    // The variables are read by proxyFor, one rule for gRPC and HTTP.
    'grpc.enable_http_proxy': 0,
    ...(settings.tls.serverName === undefined
      ? {}
      : {
          'grpc.ssl_target_name_override': settings.tls.serverName,
          'grpc.default_authority': settings.tls.serverName,
        }),
  };
  if (proxy === undefined)
    return connectService(AgentService, target, channelCredentials(settings), options, BULK_CODECS);
  const user = decodeURIComponent(proxy.username);
  const password = decodeURIComponent(proxy.password);
  return connectService(
    AgentService,
    `dns:${hostPort({ host: proxy.hostname.replace(/^\[|\]$/g, ''), port: Number(proxy.port || 80) })}`,
    channelCredentials(settings),
    {
      'grpc.default_authority': hostPort(settings.coordinator),
      ...options,
      'grpc.http_connect_target': target,
      ...(user === '' ? {} : { 'grpc.http_connect_creds': password === '' ? user : `${user}:${password}` }),
    },
    BULK_CODECS,
  );
}

/** Metadata that says who calls. */
export function bearer(credential: string): Metadata {
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${credential}`);
  return metadata;
}
