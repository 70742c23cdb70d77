import { OctomilError } from '@octomil/shared/errors';
import { type Static, Type } from 'typebox';
import { ClientPresence } from '../gateway/event-stream.js';
import { type RouteHost, validatorCompiler } from '../gateway/route-host.js';
import type { InputRow, Predictor } from './predictor.js';

const MAX_ROWS = 10_000;
const Row = Type.Union([
  Type.Record(Type.String(), Type.Unknown()),
  Type.Array(Type.Unknown(), { maxItems: 1_000_000 }),
]);
const PredictBody = Type.Object({
  model: Type.Optional(Type.String({ minLength: 1, maxLength: 1_000 })),
  inputs: Type.Array(Row, { minItems: 1, maxItems: MAX_ROWS }),
});

/** Answers of the registry's own models. Without a predictor the route says what is missing. */
export function registerPredictRoutes(app: RouteHost, predictor: Predictor | undefined): void {
  app.post(
    '/v1/predict',
    {
      validatorCompiler,
      schema: { tags: ['inference'], summary: 'Predict with a deployed model of the registry', body: PredictBody },
    },
    async (request, reply) => {
      if (predictor === undefined) {
        throw new OctomilError(
          'model_not_found',
          'this server follows no agent; start it with the state folder of one to serve what is deployed here',
        );
      }
      const { model, inputs } = request.body as Static<typeof PredictBody>;
      const client = new ClientPresence(reply.raw);
      try {
        const answer = await predictor.predict(model, inputs as readonly InputRow[], client.signal);
        return {
          model: answer.model,
          model_id: answer.modelId,
          version: answer.version,
          version_id: answer.versionId,
          engine: answer.engine,
          predictions: answer.predictions,
          latency_ms: answer.latencyMs,
          warnings: answer.warnings,
        };
      } finally {
        client.release();
      }
    },
  );
}
