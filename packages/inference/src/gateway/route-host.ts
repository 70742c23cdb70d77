import type { Clock } from '@octomil/shared/runtime';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import type { InferenceEvent } from '../quality/index.js';
import type { Gateway } from './gateway.js';

type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown;

/** The sliver of a Fastify application that the routes need, whatever its type provider. */
export interface RouteHost {
  get(path: string, options: object, handler: Handler): unknown;
  post(path: string, options: object, handler: Handler): unknown;
}

export interface InferenceRoutesOptions<Caller> {
  readonly gateway: Gateway;
  readonly clock: Clock;
  /** Who asks. Throws when they may not. */
  readonly authorize: (request: FastifyRequest) => Caller;
  /** Which of them share limits and failures, such as those of an organization. Default: all together. */
  readonly groupOf?: (caller: Caller) => string;
  /** What happened, for the figures. Must neither wait nor throw. */
  readonly recordEvent: (caller: Caller, event: InferenceEvent) => void;
}

/** Bodies are JSON up to this: long conversations and batches. */
export const MAX_BODY_BYTES = 16 * 1024 * 1024;

/** Checks without changing: a text is not taken for a number, whatever the application is set to. */
export function validatorCompiler({ schema }: { readonly schema: unknown }) {
  const check = Compile(schema as TSchema);
  return (value: unknown) => (check.Check(value) ? { value } : { error: check.Errors(value) });
}
