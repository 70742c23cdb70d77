/** One way in which a value does not match its schema, as TypeBox says it (JSON Schema's keywords). */
export interface SchemaProblem {
  readonly keyword?: string;
  /** JSON pointer. */
  readonly instancePath?: string;
  readonly params?: unknown;
  readonly message?: string;
}

/** More of them help nobody. */
const MAX_FIELDS = 5;

/**
 * What is wrong, field by field, in words: a union lists what it takes in place of one complaint for each branch.
 *
 * @returns `field`: the first, as `details.field` has it
 */
export function explainProblems(problems: readonly SchemaProblem[]): {
  readonly reason: string;
  readonly field: string;
} {
  const fields = new Map<string, Set<string>>();
  for (const problem of problems) {
    const { keyword, message = 'is not valid' } = problem;
    const at = (problem.instancePath ?? '').slice(1).replaceAll('/', '.');
    const params = (problem.params ?? {}) as { allowedValue?: unknown; requiredProperties?: unknown };
    if (keyword === 'required' && Array.isArray(params.requiredProperties)) {
      for (const name of params.requiredProperties)
        note(fields, at === '' ? String(name) : `${at}.${name}`, 'is missing');
    } else if (keyword === 'const') note(fields, at, `must be ${JSON.stringify(params.allowedValue)}`);
    else if (keyword !== 'anyOf') note(fields, at, message);
  }
  const lines = [...fields].slice(0, MAX_FIELDS).map(([field, says]) => `${field} ${together([...says])}`.trim());
  const [first = ''] = fields.keys();
  return { reason: lines.length === 0 ? 'it does not match its schema' : lines.join('; '), field: first };
}

function note(fields: Map<string, Set<string>>, field: string, says: string): void {
  const known = fields.get(field);
  if (known === undefined) fields.set(field, new Set([says]));
  else known.add(says);
}

/** `must be a`, `must be b` and `must be c` are one sentence: `must be a, b or c`. */
function together(says: readonly string[]): string {
  const choices = says.map((one) => /^must be (.*)$/.exec(one)?.[1]);
  if (choices.length < 2 || choices.some((choice) => choice === undefined)) return says.join(', ');
  return `must be ${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}`;
}
