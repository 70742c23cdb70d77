import { foldName } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { Value } from 'typebox/value';
import { FEATURE_KINDS, FeatureHintSchema, type FeatureHints, hintedUnits } from './feature-hints.js';

/** More columns than a table may have. */
const MAX_HINTS = 10_000;

/**
 * Checks hints that came from outside: at the coordinator, and again at each site, before anything is read by them.
 *
 * @throws OctomilError `invalid_input` naming column, field and value
 */
export function parseHints(hints: unknown): FeatureHints {
  if (typeof hints !== 'object' || hints === null || Array.isArray(hints)) {
    throw new OctomilError('invalid_input', 'hints must be an object with a hint for each column', {
      details: { field: 'features.hints' },
    });
  }
  const all = Object.entries(hints);
  if (all.length > MAX_HINTS) {
    throw new OctomilError('invalid_input', `there are ${all.length} hints; at most ${MAX_HINTS} are allowed`);
  }
  for (const [column, hint] of all) {
    const problem = problemOf(hint);
    if (problem === undefined) continue;
    const name = column.slice(0, 200);
    throw new OctomilError('invalid_input', `the hint for column "${name}" ${problem}`, {
      details: { field: `features.hints.${name}` },
    });
  }
  refuseSharedNames(hints as FeatureHints);
  return hints as FeatureHints;
}

/** A name that two hints claim would be read into two columns, which no spec may have. */
function refuseSharedNames(hints: FeatureHints): void {
  const owners = new Map<string, string>();
  const claim = (column: string, name: string, field: string): void => {
    const key = foldName(name);
    const owner = owners.get(key);
    if (owner !== undefined && owner !== column) {
      throw new OctomilError(
        'invalid_input',
        `the hints for columns "${owner.slice(0, 200)}" and "${column.slice(0, 200)}" both mean "${name.slice(0, 200)}" (case and spaces make no difference); leave it to one of them`,
        { details: { field: `features.hints.${column.slice(0, 200)}${field}` } },
      );
    }
    owners.set(key, column);
  };
  for (const column of Object.keys(hints)) claim(column, column, '');
  for (const [column, { aliases = [] }] of Object.entries(hints)) {
    for (const alias of aliases) claim(column, alias, '.aliases');
  }
}

/**
 * Refuses hints by which a feature would be read from the target column: the model would learn the answer itself.
 *
 * @param target the column's name
 * @throws OctomilError `invalid_input` naming column and field
 */
export function refuseTargetHints(hints: FeatureHints, target: string): void {
  const key = foldName(target);
  for (const [column, { aliases = [], reference }] of Object.entries(hints)) {
    const name = column.slice(0, 200);
    const refuse = (field: string, what: string) =>
      new OctomilError(
        'invalid_input',
        `the hint for column "${name}" ${what} "${target}", which is the target: the model would be given what it is to predict; take it out of ${field}`,
        { details: { field: `features.hints.${name}.${field}` } },
      );
    if (foldName(column) !== key && aliases.some((alias) => foldName(alias) === key)) throw refuse('aliases', 'names');
    if (typeof reference === 'object' && foldName(reference.column) === key) {
      throw refuse('reference', 'measures its dates from');
    }
  }
}

function problemOf(hint: unknown): string | undefined {
  if (Value.Check(FeatureHintSchema, hint)) {
    const { range, clip } = hint;
    if (range !== undefined && range[0] > range[1]) return `has the range ${range.join(' to ')}, which is empty`;
    if (clip !== undefined && clip[0] >= clip[1])
      return `clips to ${clip.join(' to ')}, which leaves one value at most`;
    const [unit] = Object.entries(hintedUnits(hint)).find(([, { factor }]) => factor === 0) ?? [];
    return unit === undefined ? undefined : `converts ${unit} by a factor of 0, which leaves nothing of its values`;
  }
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
