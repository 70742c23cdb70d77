import { OctomilError } from '@octomil/shared/errors';
import { Type } from 'typebox';
import { Value } from 'typebox/value';

const closed = { additionalProperties: false };
const Text = Type.String({ minLength: 1, maxLength: 1_000 });
const Maybe = <T extends Type.TSchema>(schema: T) => Type.Optional(schema);
const Kind = Type.Union(
  ['numeric', 'boolean', 'categorical', 'ordinal', 'datetime', 'hashed', 'image'].map((kind) => Type.Literal(kind)),
);

const Hint = Type.Object(
  {
    kind: Maybe(Kind),
    aliases: Maybe(Type.Array(Text, { maxItems: 100 })),
    unit: Maybe(Text),
    units: Maybe(Type.Record(Type.String(), Type.Unknown())),
    levels: Maybe(Type.Array(Type.Union([Text, Type.Number()]), { minItems: 1, maxItems: 1_000 })),
    buckets: Maybe(Type.Integer({ minimum: 2, maximum: 65_536 })),
    derive: Maybe(Type.Unknown()),
    reference: Maybe(Type.Unknown()),
    exclude: Maybe(Type.Boolean()),
  },
  closed,
);

/** @throws `invalid_input` naming column, field and value */
export function checkHints(hints: Readonly<Record<string, unknown>>): void {
  for (const [column, hint] of Object.entries(hints)) {
    if (Value.Check(Hint, hint)) continue;
    const errors = Value.Errors(Hint, hint);
    // A union reports each of its words; the error above them says which field it is about.
    const first = errors.find(({ keyword }) => keyword === 'additionalProperties') ?? errors.at(-1);
    const field = first?.instancePath.slice(1).replaceAll('/', '.') ?? '';
    const unknown = Object.keys(hint as object).filter((name) => !Object.hasOwn(Hint.properties, name));
    const value = field === '' ? undefined : (hint as Record<string, unknown>)[field.split('.')[0] ?? ''];
    const what =
      unknown.length > 0
        ? `has no field ${unknown.join(', ')}; it has ${Object.keys(Hint.properties).join(', ')}`
        : `.${field} = ${JSON.stringify(value)?.slice(0, 200)}: ${field === 'kind' ? `one of ${KINDS}` : (first?.message ?? 'is not valid')}`;
    throw new OctomilError('invalid_input', `the hint for column "${column.slice(0, 200)}" ${what}`, {
      details: { field: `features.hints.${column.slice(0, 200)}` },
    });
  }
}

const KINDS = 'numeric, boolean, categorical, ordinal, datetime, hashed, image';
