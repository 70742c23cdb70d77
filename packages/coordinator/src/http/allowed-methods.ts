import type { App } from './app.js';

/** Which methods a path has, for the answer to another one (RFC 9110, section 15.5.6). */
export function rememberMethods(app: App): (path: string) => string[] {
  const patterns = new Map<string, { readonly matches: RegExp; readonly methods: Set<string> }>();
  app.addHook('onRoute', ({ url, method }) => {
    const known = patterns.get(url) ?? { matches: toRegExp(url), methods: new Set() };
    patterns.set(url, known);
    for (const name of [method].flat()) known.methods.add(name);
  });
  return (path) => {
    const found = [...patterns.values()].filter(({ matches }) => matches.test(path));
    return [...new Set(found.flatMap(({ methods }) => [...methods]))].sort();
  };
}

function toRegExp(url: string): RegExp {
  const source = url
    .split('/')
    .map((word) => (word.startsWith(':') ? '[^/]+' : word === '*' ? '.*' : word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')))
    .join('/');
  return new RegExp(`^${source}$`);
}
