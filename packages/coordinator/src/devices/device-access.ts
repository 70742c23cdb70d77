import type { FastifyRequest } from 'fastify';
import { requireScope, requireTokenScope, type Scope } from '../http/index.js';

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
