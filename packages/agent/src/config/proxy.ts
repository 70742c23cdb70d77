import { isLoopback, type PeerAddress } from './address.js';

/** Which proxy to take. `explicit` is the agent's own setting, which also holds for loopback; the rest is the environment's. */
export interface ProxySettings {
  /** URL of an HTTP proxy that answers CONNECT, such as `http://user:password@proxy.example:3128`. */
  readonly url: string | undefined;
  readonly explicit: boolean;
  /** Hosts reached without it: names, `.domain` suffixes, `host:port`, or `*`. */
  readonly noProxy: readonly string[];
}

/** Reads the usual variables; the lower-case spelling wins, as in curl. */
export function proxyFromEnvironment(
  environment: Readonly<Record<string, string | undefined>>,
  setting: { readonly url?: string | undefined; readonly noProxy?: readonly string[] | undefined } = {},
): ProxySettings {
  const fromEnvironment =
    environment['https_proxy'] || environment['HTTPS_PROXY'] || environment['all_proxy'] || environment['ALL_PROXY'];
  const noProxy = environment['no_proxy'] ?? environment['NO_PROXY'] ?? '';
  return {
    url: setting.url ?? (fromEnvironment || undefined),
    explicit: setting.url !== undefined,
    noProxy:
      setting.noProxy ??
      noProxy
        .split(/[\s,]+/)
        .map((entry) => entry.toLowerCase())
        .filter((entry) => entry !== ''),
  };
}

/** The proxy for `address`, or undefined where it is reached directly. */
export function proxyFor(settings: ProxySettings, address: Pick<PeerAddress, 'host' | 'port'>): URL | undefined {
  if (settings.url === undefined) return undefined;
  if (isLoopback(address.host) && !settings.explicit) return undefined;
  const host = address.host.toLowerCase();
  const bypassed = settings.noProxy.some((entry) => {
    if (entry === '*') return true;
    const [name = '', port] = entry.startsWith('[') ? [entry.replace(/^\[|\]$/g, '')] : entry.split(':');
    if (port !== undefined && Number(port) !== address.port) return false;
    const suffix = name.replace(/^\*?\./, '');
    return host === suffix || host.endsWith(`.${suffix}`);
  });
  return bypassed ? undefined : new URL(settings.url);
}
