import { OctomilError } from '@octomil/shared/errors';
import { FEATURE_KINDS, FeatureHintSchema, type FeatureHints } from '@octomil/shared/features';
import { Value } from 'typebox/value';

/** @throws `invalid_input` naming column, field and value */
export function parseHints(hints: Readonly<Record<string, unknown>>): FeatureHints {
  for (const [column, hint] of Object.entries(hints)) {
    if (Value.Check(FeatureHintSchema, hint)) continue;
    const name = column.slice(0, 200);
    throw new OctomilError('invalid_input', `the hint for column "${name}" ${problemOf(hint)}`, {
      details: { field: `features.hints.${name}` },
    });
  }
  return hints as FeatureHints;
}

function problemOf(hint: unknown): string {
  if (typeof hint !== 'object' || hint === null) return `is ${JSON.stringify(hint)}, not an object`;
  const fields = Object.keys(FeatureHintSchema.properties);
  const unknown = Object.keys(hint).filter((field) => !fields.includes(field));
  if (unknown.length > 0) return `has no field ${unknown.join(', ').slice(0, 200)}; it has ${fields.join(', ')}`;
  // A union reports each of its branches first.
  const error = Value.Errors(FeatureHintSchema, hint).at(-1);
  const path = error?.instancePath.slice(1).split('/') ?? [];
  const field = path[0] ?? '';
  const value = JSON.stringify((hint as Record<string, unknown>)[field])?.slice(0, 200);
  return `has ${field} = ${value}: ${field === 'kind' ? `it must be one of ${FEATURE_KINDS.join(', ')}` : (error?.message ?? 'it is not valid')}`;
}
