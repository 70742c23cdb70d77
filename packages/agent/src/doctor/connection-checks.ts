import { request as requestHttp } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { OctomilError } from '@octomil/shared/errors';
import { hostPort } from '../config/address.js';
import type { AgentConfig } from '../config/agent-config.js';
import { readTlsMaterial } from '../connection/coordinator-client.js';
import { type DoctorCheck, ill, well } from './check.js';

const DAY_MS = 86_400_000;
/** A certificate that ends sooner is worth a word. */
const SOON_DAYS = 14;
/** Beyond it certificates seem not yet or no longer valid, and logs of two machines cannot be laid side by side. */
const MAX_SKEW_MS = 120_000;

/** Told by what cannot be the port for agents, such as that of REST. */
const OTHER_PROTOCOL = Symbol('another protocol');

/** TCP (through the proxy where there is one), TLS with the configured authority, and the clock against the coordinator's. */
export async function checkConnection(
  config: AgentConfig,
  proxy: URL | undefined,
  timeoutMs: number,
  now: () => number,
): Promise<DoctorCheck[]> {
  const { coordinator } = config;
  const checks: DoctorCheck[] = [];
  let socket: Socket;
  try {
    socket = await (proxy === undefined
      ? openTcp(coordinator, timeoutMs)
      : openTunnel(proxy, hostPort(coordinator), timeoutMs));
    checks.push(well('tcp', `connected to ${hostPort(coordinator)}${proxy === undefined ? '' : ' through the proxy'}`));
  } catch (error) {
    const by = proxy === undefined ? '' : ` through ${proxy.host}`;
    checks.push(
      ill(
        'tcp',
        `${hostPort(coordinator)} cannot be reached${by}: ${(error as Error).message}`,
        proxy === undefined
          ? 'is the coordinator running, and does the firewall let this machine out to that port? Is a proxy needed?'
          : 'check the proxy, its login, and that it allows CONNECT to that port',
      ),
    );
    return checks;
  }
  try {
    if (coordinator.tls) {
      const secured = await secure(socket, config, timeoutMs);
      checks.push(tlsCheck(secured, now));
      socket = secured;
    } else {
      checks.push(
        config.insecure
          ? ill('tls', 'off by "insecure"', 'use grpcs:// where anybody else is on the network')
          : well('tls', 'not needed on this machine'),
      );
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    checks.push(ill('tls', `${code ?? 'failed'}: ${(error as Error).message}`, tlsHint(code ?? '')));
    socket.destroy();
    return checks;
  }
  checks.push(await clockCheck(socket, config, timeoutMs, now));
  socket.destroy();
  return checks;
}

function openTcp({ host, port }: { host: string; port: number }, timeoutMs: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host, port });
    const timer = setTimeout(
      () => socket.destroy(new OctomilError('request_timeout', `no answer within ${timeoutMs} ms`)),
      timeoutMs,
    );
    socket.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    socket.once('connect', () => {
      clearTimeout(timer);
      resolve(socket);
    });
  });
}

function openTunnel(proxy: URL, target: string, timeoutMs: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const login = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
    const request = requestHttp({
      host: proxy.hostname.replace(/^\[|\]$/g, ''),
      port: Number(proxy.port || 80),
      method: 'CONNECT',
      path: target,
      timeout: timeoutMs,
      headers: {
        host: target,
        ...(login === ':' ? {} : { 'proxy-authorization': `Basic ${Buffer.from(login).toString('base64')}` }),
      },
    });
    request.once('timeout', () =>
      request.destroy(new OctomilError('request_timeout', `the proxy did not answer within ${timeoutMs} ms`)),
    );
    request.once('error', reject);
    request.once('connect', (response, socket: Socket) => {
      if (response.statusCode === 200) resolve(socket);
      else reject(new OctomilError('network_unavailable', `the proxy answered ${response.statusCode}`));
    });
    request.once('response', (response) => {
      reject(new OctomilError('network_unavailable', `the proxy answered ${response.statusCode}`));
      response.destroy();
    });
    request.end();
  });
}

function secure(socket: Socket, config: AgentConfig, timeoutMs: number): Promise<TLSSocket> {
  const name = config.tls.serverName ?? config.coordinator.host;
  return new Promise((resolve, reject) => {
    const secured = connectTls({
      socket,
      ...readTlsMaterial(config),
      ALPNProtocols: ['h2'],
      host: name,
      ...(isIP(name) === 0 ? { servername: name } : {}),
    });
    const timer = setTimeout(
      () => secured.destroy(new OctomilError('request_timeout', `no handshake within ${timeoutMs} ms`)),
      timeoutMs,
    );
    secured.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    secured.once('secureConnect', () => {
      clearTimeout(timer);
      resolve(secured);
    });
  });
}

function tlsCheck(socket: TLSSocket, now: () => number): DoctorCheck {
  const { subject, valid_to: validTo } = socket.getPeerCertificate();
  const days = Math.floor((Date.parse(validTo) - now()) / DAY_MS);
  const detail = `${socket.getProtocol()}, certificate of ${subject?.CN ?? 'an unnamed host'}, ${days} days left`;
  return days < SOON_DAYS ? ill('tls', detail, "renew the coordinator's certificate") : well('tls', detail);
}

function tlsHint(code: string): string {
  switch (code) {
    case 'CERT_HAS_EXPIRED':
      return "renew the coordinator's certificate, or set this machine's clock";
    case 'CERT_NOT_YET_VALID':
      return "set this machine's clock";
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return "use a name that is in the coordinator's certificate, or set tls.server_name";
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
      return "set tls.ca to the certificate authority's PEM file; behind an inspecting proxy, to that proxy's authority";
    default:
      return 'does the coordinator speak TLS on this port?';
  }
}

/** gRPC servers answer HTTP/2 requests, of whatever path, with a date or not; without one nothing is known. */
async function clockCheck(
  socket: Socket,
  config: AgentConfig,
  timeoutMs: number,
  now: () => number,
): Promise<DoctorCheck> {
  const { coordinator } = config;
  const date = await new Promise<string | typeof OTHER_PROTOCOL | undefined>((resolve) => {
    const session = connectHttp2(`${coordinator.tls ? 'https' : 'http'}://${hostPort(coordinator)}`, {
      createConnection: () => socket,
    });
    const timer = setTimeout(() => resolve(undefined), timeoutMs);
    const end = (value: string | typeof OTHER_PROTOCOL | undefined): void => {
      clearTimeout(timer);
      resolve(value);
      session.destroy();
    };
    const fail = ({ code }: NodeJS.ErrnoException): void => {
      end(code === 'ERR_HTTP2_ERROR' ? OTHER_PROTOCOL : undefined);
    };
    session.once('error', fail);
    const stream = session.request({
      ':path': '/healthz',
      ':method': 'POST',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.once('error', fail);
    stream.once('response', (headers) => end(headers.date));
    stream.end();
  });
  if (date === OTHER_PROTOCOL) {
    return ill(
      'grpc',
      `what answers at ${hostPort(coordinator)} does not speak gRPC`,
      'name the port for agents, which "octomil up" prints as Agents (gRPC); REST has another',
    );
  }
  if (date === undefined) return well('clock', 'the coordinator does not tell its time on this port');
  const skewMs = now() - Date.parse(date);
  const seconds = Math.round(Math.abs(skewMs) / 1_000);
  return Math.abs(skewMs) > MAX_SKEW_MS
    ? ill(
        'clock',
        `${seconds} s ${skewMs > 0 ? 'ahead of' : 'behind'} the coordinator`,
        'synchronise this machine (NTP)',
      )
    : well('clock', `within ${seconds} s of the coordinator`);
}
