import { OctomilError } from '@octomil/shared/errors';
import { type Architecture, type ModelPlan, namedLayers } from '@octomil/shared/models';
import { Type } from 'typebox';
import { Value } from 'typebox/value';

/**
 * What of a model is a site's own:
 *
 * - `fedbn`: its normalization layers, weights and moving statistics (Li et al. 2021, "FedBN: Federated Learning on Non-IID
 *   Features via Local Batch Normalization");
 * - `fedper`: the layers that are named, its head (Arivazhagan et al. 2019, "Federated Learning with Personalization Layers");
 * - `ditto`: a whole second model beside the global one, held near it by λ/2·‖v − w‖² (Li et al. 2021, "Ditto: Fair and
 *   Robust Federated Learning Through Personalization").
 */
export type Personalization =
  | { readonly method: 'fedbn' }
  | { readonly method: 'fedper'; readonly headLayers: readonly string[] }
  | {
      readonly method: 'ditto';
      /** λ: 0 is local training alone; the larger, the nearer to the global model. */
      readonly lambda: number;
      /** Of the personal model. Default: as the global one's. */
      readonly epochs?: number;
      /** Of the personal model. Default: as the global one's. */
      readonly learningRate?: number;
    };

export const PERSONALIZATION_METHODS = ['fedbn', 'fedper', 'ditto'] as const;

/** λ of Ditto where nothing is said. */
export const DEFAULT_DITTO_LAMBDA = 0.1;

const SCHEMAS = {
  fedbn: Type.Object({ method: Type.Literal('fedbn') }, { additionalProperties: false }),
  fedper: Type.Object(
    {
      method: Type.Literal('fedper'),
      headLayers: Type.Array(Type.String({ minLength: 1, maxLength: 200 }), { minItems: 1, maxItems: 1_000 }),
    },
    { additionalProperties: false },
  ),
  ditto: Type.Object(
    {
      method: Type.Literal('ditto'),
      lambda: Type.Number({ minimum: 0, maximum: 1_000_000 }),
      epochs: Type.Optional(Type.Integer({ minimum: 1, maximum: 10_000 })),
      learningRate: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 1_000 })),
    },
    { additionalProperties: false },
  ),
};

const NON_EMPTY = {
  fedbn: 'fedbn has no settings',
  fedper: 'fedper needs head_layers: names of layers of the model, such as ["output"]',
  ditto: 'ditto has lambda (0 or more), epochs and learningRate',
};

/**
 * Checks a personalization that came from outside: a method's name, or an object with `method` and its settings.
 *
 * @throws OctomilError `invalid_input` saying what the method takes
 */
export function parsePersonalization(value: unknown): Personalization {
  const given = typeof value === 'string' ? { method: value } : value;
  const method = typeof given === 'object' && given !== null && 'method' in given ? given.method : undefined;
  if (method !== 'fedbn' && method !== 'fedper' && method !== 'ditto') {
    throw new OctomilError(
      'invalid_input',
      `personalization = ${JSON.stringify(value)?.slice(0, 200)}: its method must be one of ${PERSONALIZATION_METHODS.join(', ')}`,
      { details: { field: 'personalization' } },
    );
  }
  const filled = method === 'ditto' ? { lambda: DEFAULT_DITTO_LAMBDA, ...(given as object) } : given;
  if (Value.Check(SCHEMAS[method], filled)) return filled as Personalization;
  throw new OctomilError(
    'invalid_input',
    `personalization = ${JSON.stringify(value)?.slice(0, 200)}: ${NON_EMPTY[method]}`,
    { details: { field: 'personalization' } },
  );
}

/**
 * Checks that the architecture has what is to stay local, and something that does not.
 *
 * @throws OctomilError `invalid_input` naming the layers that there are
 */
export function checkPersonalization(personalization: Personalization, architecture: Architecture): void {
  if (personalization.method === 'ditto') return;
  const layers = namedLayers(architecture);
  const weighted = layers.filter(({ hasWeights }) => hasWeights !== false);
  const listed = weighted.map(({ name }) => name).join(', ');
  const refuse = (reason: string): OctomilError =>
    new OctomilError('invalid_input', `personalization: ${reason}; the model's layers with weights are ${listed}`, {
      details: { field: 'personalization', layers: weighted.map(({ name }) => name) },
    });
  if (personalization.method === 'fedbn') {
    if (layers.some(({ className }) => isNormalization(className))) return;
    throw refuse('fedbn keeps normalization layers (BatchNormalization, LayerNormalization), and the model has none');
  }
  const unknown = personalization.headLayers.filter((name) => !layers.some((layer) => layer.name === name));
  if (unknown.length > 0) throw refuse(`head_layers names ${unknown.join(', ')}, which the model does not have`);
  const empty = personalization.headLayers.filter((name) => !weighted.some((layer) => layer.name === name));
  if (empty.length > 0) throw refuse(`head_layers names ${empty.join(', ')}, which has no weights`);
  if (weighted.every(({ name }) => personalization.headLayers.includes(name))) {
    throw refuse('head_layers names every layer, so that nothing would be learned together');
  }
}

/**
 * Names of the tensors that stay at the site; none for Ditto, whose personal model is a second one.
 *
 * @throws OctomilError `invalid_input` as {@link checkPersonalization}: what comes from the coordinator is checked again
 */
export function localTensors(personalization: Personalization, plan: ModelPlan, architecture: Architecture): string[] {
  checkPersonalization(personalization, architecture);
  if (personalization.method === 'ditto') return [];
  const isLocal =
    personalization.method === 'fedbn'
      ? ({ className }: { className: string }) => isNormalization(className)
      : ({ name }: { name: string }) => personalization.headLayers.includes(name);
  return plan.graph.layers
    .filter(isLocal)
    .flatMap(({ name }) => (plan.weights.get(name) ?? []).map((weight) => weight.name));
}

const isNormalization = (className: string): boolean =>
  className === 'BatchNormalization' || className === 'LayerNormalization';
