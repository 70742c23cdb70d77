import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Kysely, RawBuilder } from 'kysely';
import type { Tables } from '../../database/tables.js';
import type { App } from '../app.js';
import type { Principal } from '../principal.js';
import { openAnswer, sealAnswer } from './answer-seal.js';
import { type IdempotencyStore, RENEW_EVERY_MS, type RepeatKey, type Reservation } from './idempotency-store.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The request is a repetition, answered from what is stored. */
    replayed: boolean;
    reservation: OpenReservation | undefined;
    /** Set by an earlier hook: a statement to be stored in one commit with the answer. */
    storedBeside: RawBuilder<unknown> | undefined;
  }
  interface FastifyContextConfig {
    /** `false`: `Idempotency-Key` is ignored, for routes whose repetition does no harm and whose answers are large. */
    idempotent?: false;
  }
}

/** A key that this request holds, until it is answered. */
interface OpenReservation {
  readonly id: RepeatKey;
  readonly lock: string;
  /** The key itself; the row has its digest. */
  readonly key: string;
  answered: boolean;
  stopRenewing: () => void;
}

/** Visible ASCII. */
const KEY = /^[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?$/;
const MAX_STORED_CHARACTERS = 1024 * 1024;

/**
 * `Idempotency-Key` on POST: the same key with the same request is answered once and then from the store, with
 * `Idempotent-Replayed: true`. Final outcomes are stored (2xx, and 4xx that stay so); after 5xx, and after a failure that the error table calls
 * repeatable (429, an upload whose bytes are not all there), the key is free again.
 */
export function registerIdempotency(
  app: App,
  { store, clock, logger }: { readonly store: IdempotencyStore; readonly clock: Clock; readonly logger: Logger },
): void {
  app.decorateRequest('replayed', false);
  app.decorateRequest('reservation', undefined);
  app.decorateRequest('storedBeside', undefined);

  app.addHook('preHandler', async (request, reply) => {
    const key = request.headers['idempotency-key'];
    const { principal, bearer } = request;
    if (key === undefined || request.method !== 'POST' || principal === undefined || bearer === undefined) return;
    if (request.routeOptions.config.idempotent === false) return;
    if (typeof key !== 'string' || !KEY.test(key)) {
      throw new OctomilError('invalid_input', 'Idempotency-Key must be 1 to 255 visible ASCII characters', {
        details: { field: 'Idempotency-Key' },
      });
    }
    const id = {
      organizationId: principal.organizationId,
      caller: callerOf(principal, bearer),
      key: digest(key),
    };
    const found = await store.reserve(id, `POST ${request.routeOptions.url ?? ''}`, requestHash(request));
    if (found.kind === 'mine') {
      request.reservation = hold(id, found.lock, key);
      return;
    }
    const { status, body } = storedAnswer(found, bearer, key);
    request.replayed = true;
    reply.header('idempotent-replayed', 'true');
    await reply.code(status).type('application/json; charset=utf-8').send(body);
    return reply;
  });

  app.addHook('onSend', async (request, reply, payload) => {
    const { reservation, storedBeside } = request;
    if (reservation === undefined) return payload;
    reservation.stopRenewing();
    try {
      if (keepsAnswer(request, reply, payload)) await keep(request, reply, payload);
      else await store.release(reservation.id, reservation.lock);
    } catch (error) {
      // An answer is not sent without its audit entry. It becomes 500, which comes by here again and frees the key.
      if (storedBeside !== undefined) throw error;
      // What was done is done: the answer is worth more than the possibility to repeat it.
      logger.error({ error, requestId: request.id }, 'an answer could not be stored under its idempotency key');
    } finally {
      request.storedBeside = undefined;
    }
    request.reservation = undefined;
    return payload;
  });
  app.outcomeRecorders.push(async ({ request, reply, text }, transaction) => {
    const { reservation } = request;
    if (reservation === undefined || !keepsAnswer(request, reply, text)) return () => undefined;
    try {
      await keep(request, reply, text, transaction);
    } finally {
      request.storedBeside = undefined;
    }
    return () => {
      reservation.stopRenewing();
      request.reservation = undefined;
    };
  });

  // Answers that were never sent by way of the hook above: streams taken over by their route.
  app.addHook('onResponse', async (request) => {
    const { reservation } = request;
    if (reservation === undefined) return;
    request.reservation = undefined;
    reservation.stopRenewing();
    await store.release(reservation.id, reservation.lock);
  });

  async function keep(
    { reservation, bearer, storedBeside }: FastifyRequest,
    { statusCode }: FastifyReply,
    text: string,
    within?: Kysely<Tables>,
  ): Promise<void> {
    if (reservation === undefined || bearer === undefined) return;
    const { id, lock, key } = reservation;
    const answer = { status: statusCode, body: sealAnswer(text, bearer, key) };
    await store.complete(id, lock, answer, { beside: storedBeside, ...(within === undefined ? {} : { within }) });
  }

  function hold(id: RepeatKey, lock: string, key: string): OpenReservation {
    let cancel: () => void = () => undefined;
    const reservation: OpenReservation = {
      id,
      lock,
      key,
      answered: false,
      stopRenewing: () => {
        reservation.answered = true;
        cancel();
      },
    };
    const renewLater = (): void => {
      cancel = clock.after(RENEW_EVERY_MS, () => {
        store.renew(id, reservation.lock).then(
          (held) => {
            if (held && !reservation.answered) renewLater();
          },
          (error: unknown) => logger.warn({ error }, 'the hold on an idempotency key could not be renewed'),
        );
      });
    };
    renewLater();
    return reservation;
  }
}

/** Whether this answer will be stored under the key that the request holds. */
export function keepsAnswer(
  { reservation, bearer, mayRepeat }: FastifyRequest,
  { statusCode }: FastifyReply,
  payload: unknown,
): payload is string {
  if (reservation === undefined || bearer === undefined || typeof payload !== 'string') return false;
  return statusCode < 500 && !mayRepeat && payload.length <= MAX_STORED_CHARACTERS;
}

function storedAnswer(
  found: Exclude<Reservation, { kind: 'mine' }>,
  bearer: string,
  key: string,
): { status: number; body: string } {
  if (found.kind === 'other_request') {
    throw new OctomilError(
      'conflict',
      `this Idempotency-Key was used for another request (${found.route}) within the last 24 hours; use a new key`,
      { details: { route: found.route } },
    );
  }
  if (found.kind === 'in_progress') {
    throw new OctomilError('conflict', 'the request with this Idempotency-Key is still in progress; ask again', {
      retryAfterSeconds: found.retryAfterSeconds,
    });
  }
  const body = openAnswer(found.body, bearer, key);
  if (body === undefined) {
    throw new OctomilError('conflict', 'the answer stored for this Idempotency-Key cannot be read; use a new key');
  }
  return { status: found.status, body };
}

/** One token is one caller: its stored answers can be opened with that token alone. */
function callerOf(principal: Principal, bearer: string): string {
  const name = principal.kind === 'key' ? `key:${principal.keyId}` : `device:${principal.deviceId}`;
  return `${name}:${digest(bearer).slice(0, 16)}`;
}

/** JSON and forms by what they say; a body that streams by its declared length, for its bytes are not read yet. */
function requestHash(request: FastifyRequest): string {
  const { url, headers, body } = request;
  const type = (headers['content-type'] ?? '').split(';', 1)[0]?.trim() ?? '';
  const streams = body instanceof Readable || type.startsWith('multipart/');
  const said = streams ? `${type} ${headers['content-length'] ?? 'chunked'}` : JSON.stringify(body ?? null);
  return digest(`${url}\n${said}`);
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
