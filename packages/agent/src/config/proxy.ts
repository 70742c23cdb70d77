import { bypassesProxy, type Environment, noProxyEntries } from '@octomil/shared/storage';
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
  environment: Environment,
  setting: { readonly url?: string | undefined; readonly noProxy?: readonly string[] | undefined } = {},
): ProxySettings {
  const fromEnvironment =
    environment['https_proxy'] || environment['HTTPS_PROXY'] || environment['all_proxy'] || environment['ALL_PROXY'];
  const noProxy = environment['no_proxy'] ?? environment['NO_PROXY'] ?? '';
  return {
    url: setting.url ?? (fromEnvironment || undefined),
    explicit: setting.url !== undefined,
    noProxy: setting.noProxy ?? noProxyEntries(noProxy),
  };
}

/** The proxy for `address`, or undefined where it is reached directly. */
export function proxyFor(settings: ProxySettings, address: Pick<PeerAddress, 'host' | 'port'>): URL | undefined {
  if (settings.url === undefined) return undefined;
  if (isLoopback(address.host) && !settings.explicit) return undefined;
  return bypassesProxy(settings.noProxy, address) ? undefined : new URL(settings.url);
}

const VARIABLES: ReadonlySet<string> = new Set(['https_proxy', 'http_proxy', 'all_proxy']);

/**
 * The environment as the sources of data are to see it: the agent's own setting takes the place of its proxies. The
 * loopback is then still reached directly.
 */
export function environmentWithProxy(environment: Environment, { url, explicit, noProxy }: ProxySettings): Environment {
  const kept = Object.entries(environment).filter(([name]) => {
    const variable = name.toLowerCase();
    return variable !== 'no_proxy' && !(explicit && VARIABLES.has(variable));
  });
  return {
    ...Object.fromEntries(kept),
    ...(explicit ? { https_proxy: url, http_proxy: url } : {}),
    no_proxy: noProxy.join(','),
  };
}
