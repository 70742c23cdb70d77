import { DATE_FORMATS, foldName } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { encodedWidth, isCycle } from './column-width.js';
import { fixedReference } from './date-encoder.js';
import { DATE_CYCLES, DATE_SPANS, type FeatureColumn, type FeatureSpec, type TargetSpec } from './feature-spec.js';
import { shapeOf } from './image-encoder.js';
import { hashFeatureSpec } from './spec-hash.js';
import { COMPARISONS } from './target-rule.js';

export const MAX_SPEC_COLUMNS = 10_000;
/** Levels that a person may name. */
export const MAX_NAMED_LEVELS = 1_000;
export const MAX_ENCODED_WIDTH = 1_000_000;

const closed = { additionalProperties: false };
const Name = Type.String({ minLength: 1, maxLength: 1000 });
const Marker = Type.Union([Type.Number(), Type.String({ maxLength: 1000 })]);
const Ratio = Type.Number({ minimum: 0, maximum: 1 });
const Range = Type.Tuple([Type.Number(), Type.Number()]);
const base = {
  name: Name,
  missingMarkers: Type.Array(Marker, { maxItems: 100 }),
  missingIndicator: Type.Boolean(),
  aliases: Type.Optional(Type.Array(Name, { maxItems: 100 })),
  unit: Type.Optional(Name),
  units: Type.Optional(
    Type.Record(Type.String(), Type.Object({ factor: Type.Number(), offset: Type.Number() }, closed)),
  ),
  range: Type.Optional(Range),
  reference: Type.Optional(
    Type.Object(
      {
        missingRatio: Ratio,
        levelRatios: Type.Optional(Type.Array(Ratio, { maxItems: MAX_NAMED_LEVELS + 1 })),
      },
      closed,
    ),
  ),
};
const scaling = { mean: Type.Number(), deviation: Type.Number({ exclusiveMinimum: 0 }) };
const literals = <T extends string>(values: readonly T[]) => Type.Union(values.map((value) => Type.Literal(value)));

const levelled = {
  levels: Type.Array(Type.String({ maxLength: 1000 }), { minItems: 1, maxItems: MAX_NAMED_LEVELS }),
  values: literals(['text', 'number'] as const),
};
const DateParts = Type.Union([
  Type.Object({ part: literals(DATE_SPANS), ...scaling }, closed),
  Type.Object({ part: literals(DATE_CYCLES) }, closed),
]);
const Size = Type.Integer({ minimum: 1, maximum: 4096 });
const PerChannel = (schema: Type.TSchema) => Type.Array(schema, { minItems: 1, maxItems: 4 });

const Column = Type.Union([
  Type.Object(
    {
      kind: Type.Literal('numeric'),
      ...base,
      clip: Type.Optional(Range),
      scale: Type.Optional(Type.Literal('log1p')),
      ...scaling,
    },
    closed,
  ),
  Type.Object({ kind: Type.Literal('boolean'), ...base, ...scaling }, closed),
  Type.Object({ kind: Type.Literal('categorical'), ...base, ...levelled }, closed),
  Type.Object({ kind: Type.Literal('ordinal'), ...base, ...levelled, ...scaling }, closed),
  Type.Object(
    {
      kind: Type.Literal('datetime'),
      ...base,
      format: literals(DATE_FORMATS),
      parts: Type.Array(DateParts, { minItems: 1, maxItems: 5 }),
      from: Type.Optional(Type.Union([Name, Type.Object({ column: Name }, closed)])),
    },
    closed,
  ),
  Type.Object(
    {
      kind: Type.Literal('hashed'),
      ...base,
      buckets: Type.Integer({ minimum: 2, maximum: 65_536 }),
      seed: Type.String({ maxLength: 100 }),
    },
    closed,
  ),
  Type.Object(
    {
      kind: Type.Literal('image'),
      ...base,
      height: Size,
      width: Size,
      channels: Type.Integer({ minimum: 1, maximum: 4 }),
      mean: PerChannel(Type.Number()),
      deviation: PerChannel(Type.Number({ exclusiveMinimum: 0 })),
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
    reference: Type.Optional(
      Type.Object(
        { missingRatio: Ratio, classRatios: Type.Optional(Type.Array(Ratio, { maxItems: MAX_NAMED_LEVELS + 1 })) },
        closed,
      ),
    ),
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
 * @throws `invalid_input` for a wrong shape, a column named twice, one that is read from the target or a hash that does not match; `too_large` beyond
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
    // Of an unknown field, TypeBox says no more than that.
    const what = first?.message === 'schema is false' ? 'there is no such field' : first?.message;
    const where = first === undefined ? '' : ` at ${first.instancePath || 'its root'}: ${what}`;
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
  const targetKey = foldName(target.rule.column);
  const keys = new Set<string>();
  for (const column of columns) {
    if (column.kind === 'datetime' && typeof column.from === 'object' && foldName(column.from.column) === targetKey) {
      throw leak(column.name, 'is measured from', target.rule.column);
    }
    for (const name of [column.name, ...(column.aliases ?? [])]) {
      const key = foldName(name);
      if (key === targetKey) throw leak(column.name, 'is read from', target.rule.column);
      if (keys.has(key)) throw new OctomilError('invalid_input', `the feature spec has the column "${name}" twice`);
      keys.add(key);
    }
    checkColumn(column);
  }
  const width = encodedWidth({ columns });
  if (width > MAX_ENCODED_WIDTH) {
    throw new OctomilError(
      'too_large',
      `the feature spec makes ${width} inputs; at most ${MAX_ENCODED_WIDTH} are allowed`,
    );
  }
  checkTarget(target);
}

function checkTarget({ rule, output, classes, reference }: TargetSpec): void {
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
  const shares = reference?.classRatios;
  const wanted = expected === 0 ? 0 : expected + 1;
  if (shares !== undefined && shares.length !== wanted) {
    throw new OctomilError(
      'invalid_input',
      `the target of the feature spec has ${shares.length} class shares in place of ${wanted}: one for each class, one for all others`,
    );
  }
}

/** A feature that holds the target tells the model what it is to predict. */
function leak(name: string, how: string, target: string): OctomilError {
  return new OctomilError(
    'invalid_input',
    `the column "${name}" of the feature spec ${how} "${target}", which is the target: the model would be given what it is to predict`,
  );
}

function checkColumn(column: FeatureColumn): void {
  const { name, range, reference, units = {} } = column;
  const refuse = (why: string) => new OctomilError('invalid_input', `the column "${name}" of the feature spec ${why}`);
  if (range !== undefined && range[0] > range[1]) throw refuse(`has the range ${range.join(' to ')}, which is empty`);
  for (const [unit, { factor }] of Object.entries(units)) {
    if (factor === 0) throw refuse(`converts ${unit} by a factor of 0`);
  }
  switch (column.kind) {
    case 'numeric':
      if (column.clip !== undefined && column.clip[0] >= column.clip[1]) {
        throw refuse(`is clipped to ${column.clip.join(' to ')}, which leaves one value`);
      }
      break;
    case 'categorical':
    case 'ordinal': {
      const seen = new Set<string>();
      const twice = column.levels.find((level) => seen.size === seen.add(level).size);
      if (twice !== undefined) throw refuse(`has the level "${twice}" twice`);
      const told = reference?.levelRatios?.length ?? column.levels.length + 1;
      if (told !== column.levels.length + 1)
        throw refuse(`has ${told} level shares for ${column.levels.length} levels`);
      break;
    }
    case 'datetime':
      fixedReference(column);
      if (column.from === undefined && column.parts.some((part) => !isCycle(part))) {
        throw refuse('counts years or days, but not from when (from)');
      }
      break;
    case 'image':
      if (column.mean.length !== column.channels || column.deviation.length !== column.channels) {
        throw refuse(`has ${column.channels} channels, but other numbers of means or deviations`);
      }
      shapeOf(column);
      break;
    case 'boolean':
    case 'hashed':
  }
}
