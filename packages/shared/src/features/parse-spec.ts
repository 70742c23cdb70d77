import { foldName } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { encodedWidth } from './column-width.js';
import type { FeatureSpec } from './feature-spec.js';
import { MAX_LEVELS } from './site-statistics.js';
import { hashFeatureSpec } from './spec-hash.js';
import { COMPARISONS } from './target-rule.js';

export const MAX_SPEC_COLUMNS = 10_000;
export const MAX_ENCODED_WIDTH = 1_000_000;

const closed = { additionalProperties: false };
const Name = Type.String({ minLength: 1, maxLength: 1000 });
const Marker = Type.Union([Type.Number(), Type.String({ maxLength: 1000 })]);
const base = { name: Name, missingMarkers: Type.Array(Marker, { maxItems: 100 }), missingIndicator: Type.Boolean() };
const scaling = { mean: Type.Number(), deviation: Type.Number({ exclusiveMinimum: 0 }) };
const literals = <T extends string>(values: readonly T[]) => Type.Union(values.map((value) => Type.Literal(value)));

const Column = Type.Union([
  Type.Object({ kind: Type.Literal('numeric'), ...base, ...scaling }, closed),
  Type.Object({ kind: Type.Literal('boolean'), ...base, ...scaling }, closed),
  Type.Object(
    {
      kind: Type.Literal('categorical'),
      ...base,
      levels: Type.Array(Type.String({ maxLength: 1000 }), { minItems: 1, maxItems: MAX_LEVELS }),
      values: literals(['text', 'number'] as const),
    },
    closed,
  ),
]);

const Target = Type.Object(
  {
    rule: Type.Object(
      { column: Name, comparison: Type.Optional(literals(COMPARISONS)), value: Type.Optional(Marker) },
      closed,
    ),
    output: Type.Union([
      Type.Object({ kind: Type.Literal('binary') }, closed),
      Type.Object(
        { kind: Type.Literal('multiclass'), classes: Type.Integer({ minimum: 2, maximum: 1_000_000 }) },
        closed,
      ),
      Type.Object({ kind: Type.Literal('regression') }, closed),
    ]),
    classes: Type.Array(Type.String({ maxLength: 1000 }), { maxItems: 1000 }),
    values: literals(['text', 'number', 'boolean'] as const),
    ...scaling,
    missingMarkers: base.missingMarkers,
  },
  closed,
);

const Spec = Type.Object(
  {
    formatVersion: Type.Literal(1),
    layout: literals(['table', 'grid'] as const),
    columns: Type.Array(Column, { minItems: 1, maxItems: MAX_SPEC_COLUMNS }),
    target: Target,
    hash: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  },
  closed,
);

/**
 * Checks a feature spec that came from elsewhere, before anything is allocated for it.
 *
 * @throws `invalid_input` for a wrong shape, a column named twice or a hash that does not match; `too_large` beyond
 * 10,000 columns or 1,000,000 inputs.
 */
export function parseFeatureSpec(value: unknown): FeatureSpec {
  const columns = (value as { columns?: unknown } | null)?.columns;
  if (Array.isArray(columns) && columns.length > MAX_SPEC_COLUMNS) {
    throw new OctomilError(
      'too_large',
      `the feature spec has ${columns.length} columns; at most ${MAX_SPEC_COLUMNS} are allowed`,
    );
  }
  if (!Value.Check(Spec, value)) {
    const [first] = Value.Errors(Spec, value);
    const where = first === undefined ? '' : ` at ${first.instancePath || 'its root'}: ${first.message}`;
    throw new OctomilError('invalid_input', `this is no feature spec of format version 1${where}`);
  }
  const spec = value as FeatureSpec;
  checkMeaning(spec);
  const hash = hashFeatureSpec(spec);
  if (hash !== spec.hash) {
    throw new OctomilError('invalid_input', `the feature spec has hash ${hash} but says ${spec.hash}; fetch it again`);
  }
  return spec;
}

function checkMeaning({ columns, target }: FeatureSpec): void {
  const keys = new Set([foldName(target.rule.column)]);
  for (const { name } of columns) {
    const key = foldName(name);
    if (keys.has(key)) throw new OctomilError('invalid_input', `the feature spec has the column "${name}" twice`);
    keys.add(key);
  }
  const width = encodedWidth({ columns });
  if (width > MAX_ENCODED_WIDTH) {
    throw new OctomilError(
      'too_large',
      `the feature spec makes ${width} inputs; at most ${MAX_ENCODED_WIDTH} are allowed`,
    );
  }
  const { rule, output, classes } = target;
  if ((rule.comparison === undefined) !== (rule.value === undefined)) {
    throw new OctomilError(
      'invalid_input',
      'the target of the feature spec has a comparison without a value, or the reverse',
    );
  }
  const expected = output.kind === 'regression' ? 0 : output.kind === 'binary' ? 2 : output.classes;
  if (classes.length !== (rule.comparison === undefined ? expected : 0)) {
    throw new OctomilError(
      'invalid_input',
      `the target of the feature spec names ${classes.length} classes for ${expected}`,
    );
  }
}
