import type { FastifyReply } from 'fastify';
import type { RoutingDecision } from '../routing/index.js';
import type { RunResult } from './completion-run.js';
import type { ServedModel } from './served-model.js';

/** For requests that left the choice to the router. */
export function setRoutedModel(reply: FastifyReply, model: string, decision: RoutingDecision): void {
  reply.header('x-octomil-routed-model', encodeURI(model));
  reply.header('x-octomil-complexity', decision.complexityScore.toFixed(4));
  reply.header('x-octomil-tier', decision.tier);
}

/** Of a stream, which is opened before it is known what came of the draft model. */
export function setSpeculative(reply: FastifyReply, given: Pick<RunResult, 'speculative'> | ServedModel): void {
  const used = 'speculative' in given ? given.speculative : given.isSpeculative;
  if (used) reply.header('x-octomil-speculative', 'true');
  else reply.removeHeader('x-octomil-speculative');
}
