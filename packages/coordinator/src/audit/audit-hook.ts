import type { FastifyRequest } from 'fastify';
import type { App } from '../http/app.js';
import type { AuditLog } from './audit-log.js';
import { auditResource, changedFields } from './audit-resource.js';

/** What a route may say of its change where the request does not tell it. */
export interface AuditNote {
  /** For routes without a principal. */
  readonly organizationId?: string;
  readonly actor?: string;
  readonly resource?: string;
  /** Beside the names of the changed fields; never secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by a route to complete its entry in the audit log. */
    auditNote: AuditNote | undefined;
    /** What a changing request is answered with, before it becomes text. */
    answer: unknown;
  }
  interface FastifyContextConfig {
    /** `false`: no entry in the audit log, for traffic that changes nothing an organization decides on. */
    audit?: false;
  }
}

const READING = new Set(['GET', 'HEAD', 'OPTIONS']);

/**
 * Writes one entry for every changing request that was answered below 400, before the answer is sent. When the entry
 * cannot be stored, the answer is 500, though the change is made: nobody is told of a change that the log does not have.
 */
export function registerAudit(app: App, audit: AuditLog): void {
  app.decorateRequest('auditNote', undefined);
  app.decorateRequest('answer', undefined);
  app.addHook('preSerialization', async (request, _reply, payload) => {
    if (!READING.has(request.method)) request.answer = payload;
    return payload;
  });
  app.addHook('onSend', async (request, reply) => {
    if (READING.has(request.method) || reply.statusCode >= 400 || request.replayed) return;
    const { config, url } = request.routeOptions;
    if (config.audit === false || url === undefined) return;
    const who = actorOf(request);
    if (who === undefined) return;
    const { auditNote, answer } = request;
    const params = request.params as Readonly<Record<string, unknown>>;
    const fields = changedFields(request.body);
    await audit.record({
      ...who,
      action: `${request.method} ${url}`,
      resource: auditNote?.resource ?? auditResource(url, params, answer, reply.statusCode === 201),
      details: { ...(fields.length === 0 ? {} : { fields }), ...auditNote?.details },
      remoteAddress: request.ip,
      requestId: request.id,
    });
  });
}

function actorOf({ principal, auditNote }: FastifyRequest): { organizationId: string; actor: string } | undefined {
  const organizationId = auditNote?.organizationId ?? principal?.organizationId;
  const own = principal?.kind === 'key' ? `key:${principal.keyId}` : `device:${principal?.deviceId ?? ''}`;
  const actor = auditNote?.actor ?? (principal === undefined ? undefined : own);
  return organizationId === undefined || actor === undefined ? undefined : { organizationId, actor };
}
