type Params = Readonly<Record<string, unknown>>;

/** Names of fields are the schema's; what is longer or odd may be a secret in the wrong place. */
const FIELD_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,39}$/;
const MAX_FIELDS = 50;
const MAX_SEGMENT = 200;

/**
 * What a request changed, such as `models/<id>/versions/<version>`: the literal words of the route with the parameters
 * that follow them. A name in place of a model's id is replaced by the id where the answer tells it, and what was made
 * is named by the id in the answer. A verb at the end (`publish`) is the action's, not the resource's.
 */
export function auditResource(pattern: string, params: Params, answer: unknown, created: boolean): string {
  const fields = isObject(answer) ? answer : {};
  const words = pattern.split('/').filter((word) => word !== '' && !/^(api|v\d+)$/.test(word));
  const parts: string[] = [];
  for (const [index, word] of words.entries()) {
    if (!word.startsWith(':')) {
      // Collections are plural; another word at the end is what is done with them.
      if (index < words.length - 1 || index === 0 || word.endsWith('s')) parts.push(word);
      continue;
    }
    const name = word.slice(1);
    const known = index === 1 ? parentId(words[0] ?? '', fields, index === words.length - 1) : undefined;
    parts.push((known ?? text(params[name]) ?? '').slice(0, MAX_SEGMENT));
  }
  // A version is called by its number everywhere else.
  const name = parts.at(-1) === 'versions' ? text(fields['version']) : undefined;
  const id = created && !(words.at(-1) ?? '').startsWith(':') ? (name ?? text(fields['id'])) : undefined;
  if (id !== undefined) parts.push(id);
  return parts.join('/');
}

/** Names of the top-level fields that a body sets, without their values. */
export function changedFields(body: unknown): string[] {
  if (!isObject(body)) return [];
  return Object.keys(body)
    .filter((name) => FIELD_NAME.test(name))
    .slice(0, MAX_FIELDS);
}

function parentId(collection: string, fields: Params, itself: boolean): string | undefined {
  const named = text(fields[`${collection.replace(/s$/, '')}_id`]);
  return named ?? (itself ? text(fields['id']) : undefined);
}

function text(value: unknown): string | undefined {
  if (typeof value === 'number') return String(value);
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(Symbol.asyncIterator in value);
}
