import { OctomilError } from '@octomil/shared/errors';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';

/** Optimizers by their tfjs names; `momentum` is SGD with momentum 0.9. */
export const OPTIMIZERS = ['sgd', 'momentum', 'adam', 'adamax', 'rmsprop', 'adagrad', 'adadelta'] as const;
export type OptimizerName = (typeof OPTIMIZERS)[number];

/** TypeBox schema of the complete options, for REST. */
export const LocalOptionsSchema = Type.Object(
  {
    /** Passes over the site's train rows. */
    epochs: Type.Integer({ minimum: 1, maximum: 10_000 }),
    /**
     * Rows per step; the last step of an epoch takes what is left, the one before it too where that is fewer than 10.
     * Below 10 for code of a site's own alone, see `requireRowsPerStep`.
     */
    batchSize: Type.Integer({ minimum: 1, maximum: 1_048_576 }),
    learningRate: Type.Number({ exclusiveMinimum: 0, maximum: 1_000 }),
    optimizer: Type.Union(OPTIMIZERS.map((name) => Type.Literal(name))),
    /** Shuffling and dropout follow from it. */
    seed: Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
    /** FedProx μ: weight of (μ/2)·‖w − w₀‖² in the loss. 0 is plain local training. */
    proximalMu: Type.Number({ minimum: 0, maximum: 1_000_000 }),
    /** Training ends after so many steps, also within an epoch. Default: all epochs. */
    maxSteps: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000_000 })),
    /** What a row counts in the loss by its class: so that rare classes count as much as others, or as given by class. */
    classWeights: Type.Optional(
      Type.Union([
        Type.Literal('balanced'),
        Type.Record(Type.String(), Type.Number({ minimum: 0, maximum: 1_000_000 }), { minProperties: 1 }),
      ]),
    ),
    /**
     * Ends training when the loss on the held-out rows has not fallen by more than `minDelta` for `patience` epochs, and
     * keeps the weights of the best epoch.
     */
    earlyStop: Type.Optional(
      Type.Object(
        { patience: Type.Integer({ minimum: 1, maximum: 10_000 }), minDelta: Type.Number({ minimum: 0 }) },
        { additionalProperties: false },
      ),
    ),
  },
  { additionalProperties: false },
);

/** How one site trains in one round. */
export type LocalOptions = Readonly<Omit<Static<typeof LocalOptionsSchema>, 'optimizer'>> & {
  readonly optimizer: OptimizerName;
};

export const DEFAULT_LOCAL_OPTIONS: LocalOptions = {
  epochs: 1,
  batchSize: 32,
  learningRate: 0.01,
  optimizer: 'adam',
  seed: 0,
  proximalMu: 0,
};

/** Where the schema's own words would not say what to write. */
const RULES: Readonly<Record<string, string>> = {
  optimizer: `use one of ${OPTIMIZERS.join(', ')}`,
  classWeights: 'use "balanced", or a number from 0 to 1,000,000 for each class, such as {"yes": 3}',
  earlyStop: 'use { patience, minDelta }: epochs from 1 to 10,000, and a loss from 0',
};

/**
 * Checks options that came from outside and fills in `DEFAULT_LOCAL_OPTIONS`.
 *
 * @throws OctomilError `invalid_input` naming the field and its limits
 */
export function parseLocalOptions(value: unknown): LocalOptions {
  if (value !== undefined && (typeof value !== 'object' || value === null || Array.isArray(value))) {
    throw new OctomilError('invalid_input', `local options must be an object, not ${JSON.stringify(value)}`);
  }
  const filled: Record<string, unknown> = { ...DEFAULT_LOCAL_OPTIONS, ...value };
  const { earlyStop } = filled;
  if (typeof earlyStop === 'object' && earlyStop !== null && !Array.isArray(earlyStop)) {
    filled['earlyStop'] = { minDelta: 0, ...earlyStop };
  }
  if (Value.Check(LocalOptionsSchema, filled)) return filled as unknown as LocalOptions;
  const errors = Value.Errors(LocalOptionsSchema, filled);
  // An unknown field is reported twice, the other time as 'schema is false'.
  const first = errors.find((error) => error.keyword === 'additionalProperties') ?? errors[0];
  if (first?.keyword === 'additionalProperties' && first.instancePath === '') {
    const unknown = first.params.additionalProperties.join(', ');
    throw new OctomilError(
      'invalid_input',
      `local option ${unknown} is not known; there are ${Object.keys(LocalOptionsSchema.properties).join(', ')}`,
    );
  }
  const field = first?.instancePath.slice(1).split('/')[0] ?? '';
  const rule = RULES[field] ?? first?.message ?? 'is not valid';
  throw new OctomilError('invalid_input', `local option ${field} = ${JSON.stringify(filled[field])}: ${rule}`);
}
