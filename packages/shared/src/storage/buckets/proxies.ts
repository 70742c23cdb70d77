export type Environment = Readonly<Record<string, string | undefined>>;

export interface Proxies {
  /** URLs of HTTP proxies, by the protocol of what is asked for. */
  readonly https: string | undefined;
  readonly http: string | undefined;
  /** Hosts reached without them: names, `.domain` suffixes, `host:port`, or `*`. */
  readonly noProxy: readonly string[];
}

const LOOPBACK = ['localhost', '127.0.0.1', '[::1]'];

/** HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, lower case first, as in curl. The loopback is reached without a proxy. */
export function proxiesOf(environment: Environment): Proxies {
  const read = (name: string): string | undefined => environment[name] || environment[name.toUpperCase()] || undefined;
  const all = read('all_proxy');
  return {
    https: read('https_proxy') ?? all,
    http: read('http_proxy') ?? all,
    noProxy: [...noProxyEntries(read('no_proxy') ?? ''), ...LOOPBACK],
  };
}

/** The hosts that NO_PROXY lists. */
export function noProxyEntries(text: string): string[] {
  return text
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== '');
}

/** The proxy for requests to this URL's host, or undefined where it is reached directly. */
export function proxyOf(environment: Environment, url: string): URL | undefined {
  const { https, http, noProxy } = proxiesOf(environment);
  const { protocol, hostname, port } = new URL(url);
  const proxy = protocol === 'https:' ? https : http;
  const host = hostname.replace(/^\[|\]$/g, '');
  const number = Number(port || (protocol === 'https:' ? 443 : 80));
  return proxy === undefined || bypassesProxy(noProxy, { host, port: number }) ? undefined : new URL(proxy);
}

/** Whether an entry of `noProxy` names the host. */
export function bypassesProxy(noProxy: readonly string[], address: { host: string; port: number }): boolean {
  const host = address.host.toLowerCase();
  return noProxy.some((entry) => {
    if (entry === '*') return true;
    const [name = '', port] = entry.startsWith('[') ? [entry.replace(/^\[|\]$/g, '')] : entry.split(':');
    if (port !== undefined && Number(port) !== address.port) return false;
    const suffix = name.replace(/^\*?\./, '').toLowerCase();
    return host === suffix || host.endsWith(`.${suffix}`);
  });
}
