import { OctomilClientError } from './client-error.js';

/**
 * A module of Node, where this runs in Node. Not an import: bundlers for browsers would have to resolve it.
 *
 * @throws OctomilClientError `runtime_unavailable` elsewhere, saying what to use there
 */
export function nodeModule<Name extends keyof NodeModules>(name: Name, otherwise: string): NodeModules[Name] {
  const builtin = typeof process === 'undefined' ? undefined : process.getBuiltinModule;
  if (builtin === undefined)
    throw new OctomilClientError('runtime_unavailable', `there are no files here; ${otherwise}`);
  return builtin(name) as NodeModules[Name];
}

/** Whether this is Node, and no browser. */
export function inNode(): boolean {
  return typeof process !== 'undefined' && process.getBuiltinModule !== undefined;
}

interface NodeModules {
  'node:crypto': typeof import('node:crypto');
  'node:fs': typeof import('node:fs');
  'node:fs/promises': typeof import('node:fs/promises');
  'node:os': typeof import('node:os');
  'node:path': typeof import('node:path');
}
