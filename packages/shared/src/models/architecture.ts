import { OctomilError } from '@octomil/shared/errors';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';

/**
 * What a model answers with.
 *
 * - `binary`: one logit; the target is 0 or 1.
 * - `multiclass`: `classes` logits; the target is a class number from 0.
 * - `regression`: one value.
 */
const Output = Type.Union([
  Type.Object({ kind: Type.Literal('binary') }, { additionalProperties: false }),
  Type.Object(
    { kind: Type.Literal('multiclass'), classes: Type.Integer({ minimum: 2, maximum: 1_000_000 }) },
    { additionalProperties: false },
  ),
  Type.Object({ kind: Type.Literal('regression') }, { additionalProperties: false }),
]);
export type Output = Static<typeof Output>;

/** Activations of the built-in hidden layers, by their tfjs names. */
export const ACTIVATIONS = ['relu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish', 'linear'] as const;
export type Activation = (typeof ACTIVATIONS)[number];

const Activation = Type.Union(ACTIVATIONS.map((name) => Type.Literal(name)));
// The upper bounds here only keep numbers sane; what a model may cost is decided by `checkCaps`.
const Size = Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER });
const Sizes = (maxItems: number) => Type.Array(Size, { minItems: 1, maxItems });

const Logistic = Type.Object({ name: Type.Literal('logistic'), output: Output }, { additionalProperties: false });

const Mlp = Type.Object(
  { name: Type.Literal('mlp'), hidden: Sizes(64), activation: Activation, output: Output },
  { additionalProperties: false },
);

const Cnn = Type.Object(
  {
    name: Type.Literal('cnn'),
    /** Height, width, channels; their product is the encoded input width. */
    inputShape: Type.Tuple([Size, Size, Size]),
    /** Filters of each convolution; every convolution is followed by 2 × 2 max pooling while both sides are at least 2. */
    filters: Sizes(32),
    /** Side of the square kernel, with "same" padding. */
    kernelSize: Type.Integer({ minimum: 1, maximum: 31 }),
    /** Units of the dense layer before the output. */
    hidden: Size,
    activation: Activation,
    output: Output,
  },
  { additionalProperties: false },
);

const Layers = Type.Object(
  {
    name: Type.Literal('layers'),
    /** The model JSON that tfjs writes: Sequential or functional, one input, one output. */
    topology: Type.Record(Type.String(), Type.Unknown()),
    output: Output,
  },
  { additionalProperties: false },
);

const SCHEMAS = { logistic: Logistic, mlp: Mlp, cnn: Cnn, layers: Layers } as const;

/** TypeBox schema of an architecture, for REST and stored documents. */
export const ArchitectureSchema = Type.Union([Logistic, Mlp, Cnn, Layers]);
export type Architecture =
  | Static<typeof Logistic>
  | (Omit<Static<typeof Mlp>, 'activation'> & { activation: Activation })
  | (Omit<Static<typeof Cnn>, 'activation'> & { activation: Activation })
  | Static<typeof Layers>;

export const ARCHITECTURE_NAMES = Object.keys(SCHEMAS) as readonly (keyof typeof SCHEMAS)[];

const DEFAULTS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  logistic: { output: { kind: 'binary' } },
  mlp: { hidden: [64, 32], activation: 'relu', output: { kind: 'binary' } },
  cnn: { filters: [16, 32], kernelSize: 3, hidden: 64, activation: 'relu', output: { kind: 'binary' } },
  layers: {},
};

/**
 * Checks an architecture that came from outside and fills in defaults: output binary; `mlp` hidden [64, 32];
 * `cnn` filters [16, 32], kernelSize 3, hidden 64; activation relu. A bare name such as `"mlp"` stands for its defaults.
 *
 * @throws OctomilError `invalid_input` naming the field, the value and what is allowed
 */
export function parseArchitecture(value: unknown): Architecture {
  const given = typeof value === 'string' ? { name: value } : value;
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new OctomilError('invalid_input', `architecture must be an object or a name, not ${describe(value)}`);
  }
  const name: unknown = 'name' in given ? given.name : undefined;
  if (typeof name !== 'string' || !isArchitectureName(name)) {
    throw new OctomilError(
      'invalid_input',
      `architecture name ${describe(name)} is not known; use one of ${ARCHITECTURE_NAMES.join(', ')}`,
    );
  }
  const filled = { ...DEFAULTS[name], ...given };
  const schema = SCHEMAS[name];
  if (Value.Check(schema, filled)) return filled as Architecture;
  const errors = Value.Errors(schema, filled);
  // An unknown field is reported twice, the other time as 'schema is false'.
  const first =
    errors.find((error) => error.keyword === 'additionalProperties' && error.instancePath === '') ?? errors[0];
  throw new OctomilError('invalid_input', `architecture ${name}: ${explain(first, filled)}`);
}

function isArchitectureName(name: string): name is keyof typeof SCHEMAS {
  return Object.hasOwn(SCHEMAS, name);
}

function explain(error: ReturnType<typeof Value.Errors>[number] | undefined, value: unknown): string {
  if (error === undefined) return 'is not valid';
  if (error.keyword === 'additionalProperties') {
    return `unknown field ${error.params.additionalProperties.join(', ')}`;
  }
  if (error.keyword === 'required' && error.params.requiredProperties.includes('inputShape')) {
    return 'inputShape is missing: height, width and channels, such as {"name": "cnn", "inputShape": [28, 28, 1]}';
  }
  const path = error.instancePath.slice(1).replaceAll('/', '.');
  const field = path === '' ? '' : `${path} = ${describe(at(value, path))}: `;
  if (path.startsWith('activation')) return `${field}use one of ${ACTIVATIONS.join(', ')}`;
  if (path.startsWith('output')) {
    return `${field}output must be {kind: "binary"}, {kind: "multiclass", classes: 2 or more} or {kind: "regression"}`;
  }
  return `${field}${error.message}`;
}

function at(value: unknown, path: string): unknown {
  return path.split('.').reduce<unknown>((inner, key) => (inner as Record<string, unknown> | undefined)?.[key], value);
}

function describe(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** Numbers that the output layer gives for one row. */
export function outputWidth(output: Output): number {
  return output.kind === 'multiclass' ? output.classes : 1;
}
