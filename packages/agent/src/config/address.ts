import { isIP } from 'node:net';
import { OctomilError } from '@octomil/shared/errors';

/** Where a peer listens, and whether the connection is encrypted. */
export interface PeerAddress {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
}

/** Port of the coordinator's gRPC server where the address names none. */
const DEFAULT_GRPC_PORT = 8001;

const SCHEMES: Readonly<Record<string, { readonly tls: boolean; readonly port: number }>> = {
  grpc: { tls: false, port: DEFAULT_GRPC_PORT },
  grpcs: { tls: true, port: DEFAULT_GRPC_PORT },
  http: { tls: false, port: 80 },
  https: { tls: true, port: 443 },
};

/** True for names and addresses that never leave this machine. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase();
  if (bare === 'localhost' || bare.endsWith('.localhost') || bare === '::1') return true;
  return isIP(bare) === 4 && bare.startsWith('127.');
}

/**
 * Whether a connection to an address, as `URL` spells it, ends at this machine or at what its network tells it alone
 * (169.254.0.0/16, where clouds hand out credentials): nobody else has business there.
 */
export function reachesThisMachine(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase();
  const [, high, low] = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(bare) ?? [];
  if (high !== undefined && low !== undefined) {
    const [first, last] = [Number.parseInt(high, 16), Number.parseInt(low, 16)];
    return reachesThisMachine([first >> 8, first & 255, last >> 8, last & 255].join('.'));
  }
  if (isLoopback(bare.replace(/\.$/, '')) || bare === '::') return true;
  return isIP(bare) === 4 && (bare.startsWith('0.') || bare.startsWith('169.254.'));
}

/** `host:port`, with brackets around an IPv6 address. */
export function hostPort(address: { readonly host: string; readonly port: number }): string {
  return `${isIP(address.host) === 6 ? `[${address.host}]` : address.host}:${address.port}`;
}

/**
 * Reads `host`, `host:port` or a URL with scheme grpc, grpcs, http or https.
 *
 * Without a scheme a loopback host is spoken to in plaintext and every other one with TLS.
 *
 * @throws OctomilError `config_invalid` for anything else
 */
export function parseCoordinatorAddress(text: string): PeerAddress {
  const matched = /^(?:(?<scheme>[a-z]+):\/\/)?(?<host>\[[0-9a-f:.]+\]|[^\s/:@]+)(?::(?<port>\d{1,5}))?\/?$/i.exec(
    text,
  );
  const groups = matched?.groups ?? {};
  const scheme = groups['scheme'] === undefined ? undefined : SCHEMES[groups['scheme'].toLowerCase()];
  const port = groups['port'] === undefined ? undefined : Number(groups['port']);
  if (groups['host'] === undefined || (groups['scheme'] !== undefined && scheme === undefined)) {
    throw new OctomilError(
      'config_invalid',
      `"${text}" is not a coordinator address; write host:port, grpcs://host:port or https://host:port`,
    );
  }
  if (port !== undefined && (port < 1 || port > 65_535)) {
    throw new OctomilError('config_invalid', `port ${port} of "${text}" is not between 1 and 65535`);
  }
  const host = groups['host'].replace(/^\[|\]$/g, '');
  return { host, port: port ?? scheme?.port ?? DEFAULT_GRPC_PORT, tls: scheme?.tls ?? !isLoopback(host) };
}
