import type { FastifyRequest } from 'fastify';
import { requireScope, requireTokenScope, type Scope } from '../http/index.js';
import type { DeviceRecord } from './device-records.js';

/**
 * The organization of a caller that may act for a device: a key with one of the scopes, or the device itself. What is of
 * other organizations is then not found.
 *
 * @param device id that the request names; a device acts for no other
 * @throws `forbidden`
 */
export function organizationFor(
  request: FastifyRequest,
  device: string | undefined,
  ...scopes: [Scope, ...Scope[]]
): string {
  const { principal } = request;
  if (principal?.kind === 'device' && principal.deviceId === device) {
    requireTokenScope(principal, ...scopes);
    return principal.organizationId;
  }
  const held = principal?.kind === 'key' ? principal.scopes : [];
  const [first] = scopes;
  // The message names the first scope; another one is as good.
  return requireScope(request, scopes.find((scope) => held.includes(scope)) ?? first).organizationId;
}

/**
 * A device that was enrolled speaks for itself: the keys that published clients carry say nothing in its name, for what it
 * says decides rollouts. A key with `devices:write` may, as it may also enrol it again.
 *
 * @throws `forbidden`
 */
export function requireVoice(request: FastifyRequest, { identity }: Pick<DeviceRecord, 'identity'>): void {
  if (request.principal?.kind === 'key' && identity === 'enrolled') requireScope(request, 'devices:write');
}

/** Whether who asks may have the files that the device should run: to see which they are, `devices:read` is enough. */
export function mayFetchFor({ principal }: FastifyRequest, { identity }: Pick<DeviceRecord, 'identity'>): boolean {
  if (principal?.kind !== 'key') return principal !== undefined;
  const enough: Scope[] = ['admin', 'models:read', 'models:write', 'devices:write'];
  if (identity === 'shared') enough.push('control:refresh', 'devices:heartbeat');
  return principal.scopes.some((held) => enough.some((scope) => scope === held));
}
