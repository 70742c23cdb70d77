import type { FastifyReply, FastifyRequest } from 'fastify';
import type { App } from '../http/app.js';
import { keepsAnswer } from '../http/idempotency/index.js';
import { type AuditEntry, type AuditLog, insertEntry } from './audit-log.js';
import { auditResource, changedFields } from './audit-resource.js';

/** What a route may say of its change where the request does not tell it. */
export interface AuditNote {
  /** For routes without a principal. */
  readonly organizationId?: string;
  readonly actor?: string;
  readonly resource?: string;
  /** `false`: this request changed nothing that the log tells of, so that it leaves no entry. */
  readonly changed?: boolean;
  /** Beside the names of the changed fields; never secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by a route to complete its entry in the audit log. */
    auditNote: AuditNote | undefined;
    /** What a changing request is answered with, before it becomes text. */
    answer: unknown;
    /** Its entry was committed with the change. */
    recorded: boolean;
  }
  interface FastifyContextConfig {
    /** `false`: no entry in the audit log, for traffic that changes nothing an organization decides on. */
    audit?: false;
  }
}

const READING = new Set(['GET', 'HEAD', 'OPTIONS']);

/**
 * Writes one entry for every changing request that was answered below 400: in the transaction of the change for routes
 * that use `commitChange`, for all others before the answer is sent, in one commit with what is kept of the answer. When
 * the entry cannot be stored, the answer is 500, though the change may be made: nobody is told of a change that the log
 * does not have.
 *
 * To be registered before the idempotency keys, whose hook stores both.
 */
export function registerAudit(app: App, audit: AuditLog): void {
  app.decorateRequest('auditNote', undefined);
  app.decorateRequest('answer', undefined);
  app.decorateRequest('recorded', false);
  app.addHook('preSerialization', async (request, _reply, payload) => {
    if (!READING.has(request.method)) request.answer = payload;
    return payload;
  });
  app.addHook('onSend', async (request, reply, payload) => {
    if (request.recorded || reply.statusCode >= 400 || request.replayed) return;
    const entry = entryOf(request, reply, request.answer);
    if (entry === undefined) return;
    if (keepsAnswer(request, reply, payload)) request.storedBeside = insertEntry(entry);
    else await audit.record(entry);
  });
  app.outcomeRecorders.push(async ({ request, reply, answer, text }, transaction) => {
    const entry = entryOf(request, reply, answer);
    if (entry !== undefined) {
      if (keepsAnswer(request, reply, text)) request.storedBeside = insertEntry(entry);
      else await audit.record(entry, transaction);
    }
    return () => {
      request.recorded = true;
    };
  });
}

/** `undefined` for what changes nothing, and for routes that opted out. */
function entryOf(request: FastifyRequest, reply: FastifyReply, answer: unknown): AuditEntry | undefined {
  if (READING.has(request.method)) return undefined;
  const { config, url } = request.routeOptions;
  if (config.audit === false || url === undefined) return undefined;
  const { auditNote } = request;
  if (auditNote?.changed === false) return undefined;
  const who = actorOf(request);
  if (who === undefined) return undefined;
  const params = request.params as Readonly<Record<string, unknown>>;
  const fields = changedFields(request.body);
  return {
    ...who,
    action: `${request.method} ${url}`,
    resource: auditNote?.resource ?? auditResource(url, params, answer, reply.statusCode === 201),
    details: { ...(fields.length === 0 ? {} : { fields }), ...auditNote?.details },
    remoteAddress: request.ip,
    requestId: request.id,
  };
}

function actorOf({ principal, auditNote }: FastifyRequest): { organizationId: string; actor: string } | undefined {
  const organizationId = auditNote?.organizationId ?? principal?.organizationId;
  const own = principal?.kind === 'key' ? `key:${principal.keyId}` : `device:${principal?.deviceId ?? ''}`;
  const actor = auditNote?.actor ?? (principal === undefined ? undefined : own);
  return organizationId === undefined || actor === undefined ? undefined : { organizationId, actor };
}
