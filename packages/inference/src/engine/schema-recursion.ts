type Schema = Readonly<Record<string, unknown>>;

/**
 * The first of the schemas referred to that no finite text satisfies, as a list whose every item has such a list in it, or
 * that comes to itself without a text between, which no parser from the left survives. Undefined when there is none.
 *
 * Of what ends, the least fixed point is taken: productive symbols of a grammar (Hopcroft and Ullman, 1979, lemma 4.1).
 *
 * @param targets what each reference points at; the schemas must be ones that `schemaToGrammar` takes
 */
export function findEndless(root: Schema, targets: ReadonlyMap<string, unknown>): string | undefined {
  const ending = new Set<string>();
  for (let before = -1; before < ending.size; ) {
    before = ending.size;
    for (const [pointer, target] of targets) if (!ending.has(pointer) && ends(target, ending)) ending.add(pointer);
  }
  for (const pointer of targets.keys()) if (!ending.has(pointer)) return pointer;
  if (!ends(root, ending)) return '#';
  const begins = new Map([...targets].map(([pointer, target]) => [pointer, leading(target)]));
  return [...targets.keys()].find((pointer) => comesBack(pointer, begins));
}

/** Whether some text satisfies it, if the references that are known to end do. */
function ends(given: unknown, ending: ReadonlySet<string>): boolean {
  if (typeof given !== 'object' || given === null) return true;
  const schema = given as Schema;
  if (typeof schema['$ref'] === 'string') return ending.has(schema['$ref']);
  if ('const' in schema || 'enum' in schema) return true;
  const alternatives = alternativesOf(schema);
  if (alternatives !== undefined) return alternatives.some((item) => ends(item, ending));
  const types = [schema['type']].flat();
  // Some other type, or an object or list with nothing in it, is enough.
  if (types.some((type) => type !== undefined && type !== 'object' && type !== 'array')) return true;
  const isList =
    types.includes('array') || (schema['type'] === undefined && ('items' in schema || 'prefixItems' in schema));
  const isObject = types.includes('object') || (schema['type'] === undefined && 'properties' in schema);
  return (isObject && objectEnds(schema, ending)) || (isList && listEnds(schema, ending)) || (!isObject && !isList);
}

function objectEnds({ properties = {}, required = [] }: Schema, ending: ReadonlySet<string>): boolean {
  return (required as readonly string[]).every((name) => ends((properties as Schema)[name], ending));
}

function listEnds({ items, prefixItems, minItems = 0 }: Schema, ending: ReadonlySet<string>): boolean {
  if (Array.isArray(prefixItems)) return prefixItems.every((item) => ends(item, ending));
  return minItems === 0 || ends(items, ending);
}

/** The references with which a text of it may begin. */
function leading(given: unknown): readonly string[] {
  if (typeof given !== 'object' || given === null) return [];
  const schema = given as Schema;
  if (typeof schema['$ref'] === 'string') return [schema['$ref']];
  if ('const' in schema || 'enum' in schema) return [];
  return (alternativesOf(schema) ?? []).flatMap(leading);
}

function alternativesOf(schema: Schema): readonly unknown[] | undefined {
  return [schema['anyOf'], schema['oneOf'], schema['allOf']].find((list) => Array.isArray(list));
}

function comesBack(start: string, begins: ReadonlyMap<string, readonly string[]>): boolean {
  const seen = new Set<string>();
  const open = [...(begins.get(start) ?? [])];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (next === start) return true;
    if (seen.has(next)) continue;
    seen.add(next);
    open.push(...(begins.get(next) ?? []));
  }
  return false;
}
