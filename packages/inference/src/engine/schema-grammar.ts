import { OctomilError } from '@octomil/shared/errors';
import { findEndless } from './schema-recursion.js';

type Schema = Readonly<Record<string, unknown>>;

/** They describe and do not restrict. */
const ANNOTATIONS: ReadonlySet<string> = new Set([
  '$schema',
  '$id',
  '$comment',
  'title',
  'description',
  'default',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  '$defs',
  'definitions',
]);
const KEYWORDS: Readonly<Record<string, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength', 'format'],
  number: [],
  integer: ['minimum', 'maximum'],
  boolean: [],
  null: [],
};
const TYPES = Object.keys(KEYWORDS);

const MAX_RULES = 2_000;
const MAX_DEPTH = 64;
/** What llama.cpp takes as a number of repetitions. */
const MAX_LENGTH = 2_000;
const MAX_ITEMS = 1_000;
/** Of the whole schema: llama.cpp writes each repetition out, a second for a million of them. */
const MAX_REPETITIONS = 50_000;
/** Digits of numbers without bounds: what a double holds, so that nothing overflows to infinity. */
const BASIC_RULES: Readonly<Record<string, string>> = {
  // One space at most: a model may otherwise write spaces until it runs out of tokens.
  ws: '" "?',
  hex: '[0-9a-fA-F]',
  char: '[^"\\\\\\x00-\\x1f\\x7f-\\x9f] | "\\\\" (["\\\\/bfnrt] | "u" hex hex hex hex)',
  string: '"\\"" char* "\\""',
  integer: '"-"? ("0" | [1-9] [0-9]{0,14})',
  number: '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
  boolean: '"true" | "false"',
  null: '"null"',
  value: 'object | array | string | number | boolean | null',
  object: '"{" ws (string ":" ws value ("," ws string ":" ws value)*)? ws "}"',
  array: '"[" ws (value ("," ws value)*)? ws "]"',
};
const FORMATS: Readonly<Record<string, string>> = {
  date: '[0-9]{3} [1-9] "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])',
  time: '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] "Z"',
  'date-time':
    '[0-9]{3} [1-9] "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8]) "T" ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] "Z"',
  uuid: 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
};

/**
 * A grammar (GBNF, as llama.cpp reads it) of which every sentence is a JSON text that the schema accepts. It may accept
 * less than the schema: properties come in the order of the schema, and none that it does not name.
 *
 * @throws OctomilError `invalid_input` naming the keyword and where it stands, for whatever a grammar cannot hold to
 * (`pattern`, `multipleOf`, `minimum` of a number …): an answer is never less restricted than was asked for
 */
export function schemaToGrammar(schema: Schema): string {
  return new Converter(schema).convert();
}

/** Any JSON object. */
export const JSON_OBJECT_GRAMMAR: string = [
  'root ::= object',
  ...Object.entries(BASIC_RULES).map(([name, body]) => `${name} ::= ${body}`),
].join('\n');

class Converter {
  readonly #root: Schema;
  readonly #rules = new Map<string, string>();
  readonly #references = new Map<string, string>();
  #repetitions = 0;

  constructor(root: Schema) {
    this.#root = root;
  }

  convert(): string {
    this.#rules.set('root', '');
    this.#rules.set('root', this.#expression(this.#root, '#', 0));
    const targets = new Map([...this.#references.keys()].map((pointer) => [pointer, this.#resolve(pointer, '#')]));
    const endless = findEndless(this.#root, targets);
    if (endless !== undefined) throw unsupported(endless, 'it refers to itself, and no answer could ever end');
    this.#addBasics();
    return [...this.#rules].map(([name, body]) => `${name} ::= ${body}`).join('\n');
  }

  #expression(given: unknown, at: string, depth: number): string {
    if (depth > MAX_DEPTH) throw unsupported(at, `it is nested deeper than ${MAX_DEPTH} levels`);
    if (given === true) return 'value';
    if (given === false) throw unsupported(at, 'the schema false accepts nothing');
    if (typeof given !== 'object' || given === null || Array.isArray(given))
      throw unsupported(at, 'a schema is an object');
    const schema = given as Schema;
    const alternatives = schema['anyOf'] ?? schema['oneOf'];
    if (typeof schema['$ref'] === 'string')
      return this.#alone(schema, ['$ref'], at, () => this.#reference(schema['$ref'] as string, at, depth));
    if ('const' in schema) return this.#alone(schema, ['const', 'type'], at, () => literal(schema['const'], at));
    if ('enum' in schema) return this.#alone(schema, ['enum', 'type'], at, () => this.#enumeration(schema, at));
    if (alternatives !== undefined) {
      return this.#alone(schema, ['anyOf', 'oneOf'], at, () => this.#alternatives(schema, at, depth));
    }
    if (Array.isArray(schema['allOf']) && schema['allOf'].length === 1) {
      return this.#alone(schema, ['allOf'], at, () =>
        this.#expression((schema['allOf'] as unknown[])[0], `${at}/allOf/0`, depth + 1),
      );
    }
    return this.#typed(schema, at, depth);
  }

  /** For keywords that decide alone. @throws OctomilError `invalid_input` when others stand beside them */
  #alone(schema: Schema, keywords: readonly string[], at: string, convert: () => string): string {
    refuseOthers(schema, keywords, at);
    return convert();
  }

  #typed(schema: Schema, at: string, depth: number): string {
    const given = schema['type'] ?? inferredType(schema);
    const types: unknown[] = Array.isArray(given) ? given : [given];
    if (given === undefined) {
      refuseOthers(schema, [], at);
      return 'value';
    }
    const unknown = types.find((type) => typeof type !== 'string' || !TYPES.includes(type));
    if (unknown !== undefined || types.length === 0)
      throw unsupported(`${at}/type`, `the type ${JSON.stringify(unknown)} is unknown`);
    refuseOthers(schema, ['type', ...(types as string[]).flatMap((type) => KEYWORDS[type] ?? [])], at);
    return choice((types as string[]).map((type) => this.#ofType(type, schema, at, depth)));
  }

  #ofType(type: string, schema: Schema, at: string, depth: number): string {
    switch (type) {
      case 'object':
        return this.#object(schema, at, depth);
      case 'array':
        return this.#array(schema, at, depth);
      case 'string':
        return this.#string(schema, at);
      case 'integer':
        return integerRange(schema, at);
      default:
        return type;
    }
  }

  #object(schema: Schema, at: string, depth: number): string {
    const properties = Object.entries(asObject(schema['properties'] ?? {}, `${at}/properties`));
    const required = stringList(schema['required'] ?? [], `${at}/required`);
    const additional = schema['additionalProperties'] ?? true;
    const undeclared = required.find((name) => !properties.some(([known]) => known === name));
    if (undeclared !== undefined) {
      throw unsupported(`${at}/required`, `"${undeclared}" is required and not among the properties`);
    }
    if (properties.length === 0) {
      if (additional === false) return '"{" ws "}"';
      const value = this.#rule(
        additional === true ? 'value' : this.#expression(additional, `${at}/additionalProperties`, depth + 1),
      );
      return `"{" ws (string ":" ws ${value} ("," ws string ":" ws ${value})*)? ws "}"`;
    }
    // From the last to the first: what may follow with, and without, something before it.
    let afterSome = 'ws "}"';
    let afterNone = 'ws "}"';
    for (const [name, property] of [...properties].reverse()) {
      const value = this.#rule(this.#expression(property, `${at}/properties/${name}`, depth + 1));
      const pair = `${literal(name, at)} ":" ws ${value}`;
      const rest = this.#rule(afterSome);
      if (required.includes(name)) {
        afterNone = `${pair} ${rest}`;
        afterSome = `"," ws ${pair} ${rest}`;
      } else {
        afterNone = `${pair} ${rest} | ${afterNone}`;
        afterSome = `("," ws ${pair})? ${rest}`;
      }
    }
    return `"{" ws (${afterNone})`;
  }

  #array(schema: Schema, at: string, depth: number): string {
    const least = count(schema['minItems'] ?? 0, `${at}/minItems`, MAX_ITEMS);
    const most = schema['maxItems'] === undefined ? undefined : count(schema['maxItems'], `${at}/maxItems`, MAX_ITEMS);
    if (most !== undefined && most < least)
      throw unsupported(`${at}/maxItems`, `${most} is less than minItems, ${least}`);
    if (schema['prefixItems'] !== undefined) return this.#tuple(schema, at, depth, least, most);
    if (most === 0) return '"[" ws "]"';
    if (schema['items'] === false) {
      if (least > 0) throw unsupported(at, 'an array without items cannot have a minItems');
      return '"[" ws "]"';
    }
    this.#repeat(most ?? least, at);
    const item = this.#rule(
      schema['items'] === undefined ? 'value' : this.#expression(schema['items'], `${at}/items`, depth + 1),
    );
    const more = `("," ws ${item}){${Math.max(0, least - 1)},${most === undefined ? '' : most - 1}}`;
    const items = `${item} ${more}`;
    return `"[" ws ${least === 0 ? `(${items})?` : items} ws "]"`;
  }

  #tuple(schema: Schema, at: string, depth: number, least: number, most: number | undefined): string {
    const items = schema['prefixItems'];
    if (!Array.isArray(items) || items.length === 0)
      throw unsupported(`${at}/prefixItems`, 'it must be a list of schemas');
    if (least > items.length || (most !== undefined && most < items.length)) {
      throw unsupported(
        at,
        `a tuple of ${items.length} with minItems ${least} and maxItems ${most}; they must allow exactly that many`,
      );
    }
    const rules = items.map((item, index) =>
      this.#rule(this.#expression(item, `${at}/prefixItems/${index}`, depth + 1)),
    );
    return `"[" ws ${rules.join(' "," ws ')} ws "]"`;
  }

  #string(schema: Schema, at: string): string {
    const format = schema['format'];
    if (format !== undefined) {
      const body = typeof format === 'string' && Object.hasOwn(FORMATS, format) ? FORMATS[format] : undefined;
      if (body === undefined || schema['minLength'] !== undefined || schema['maxLength'] !== undefined) {
        throw unsupported(
          `${at}/format`,
          `the format ${JSON.stringify(format)} is not one of ${Object.keys(FORMATS).join(', ')}, alone`,
        );
      }
      return `"\\"" ${this.#rule(body)} "\\""`;
    }
    if (schema['minLength'] === undefined && schema['maxLength'] === undefined) return 'string';
    const least = count(schema['minLength'] ?? 0, `${at}/minLength`, MAX_LENGTH);
    const most = schema['maxLength'] === undefined ? '' : count(schema['maxLength'], `${at}/maxLength`, MAX_LENGTH);
    if (most !== '' && most < least) throw unsupported(`${at}/maxLength`, `${most} is less than minLength, ${least}`);
    this.#repeat(most === '' ? least : most, at);
    // An escaped surrogate would count as half a character: lengths are those of plain ones.
    return `"\\"" [^"\\\\\\x00-\\x1f\\x7f-\\x9f]{${least},${most}} "\\""`;
  }

  #enumeration(schema: Schema, at: string): string {
    const values = schema['enum'];
    if (!Array.isArray(values) || values.length === 0) throw unsupported(`${at}/enum`, 'it must be a list of values');
    const types = schema['type'] === undefined ? undefined : [schema['type']].flat();
    const allowed = values.filter((value) => types === undefined || types.some((type) => isOfType(value, type)));
    if (allowed.length === 0) throw unsupported(`${at}/enum`, 'none of its values has the type asked for');
    return choice(allowed.map((value) => literal(value, at)));
  }

  #alternatives(schema: Schema, at: string, depth: number): string {
    if (schema['anyOf'] !== undefined && schema['oneOf'] !== undefined)
      throw unsupported(at, 'anyOf and oneOf together');
    const keyword = schema['anyOf'] === undefined ? 'oneOf' : 'anyOf';
    const list = schema[keyword];
    if (!Array.isArray(list) || list.length === 0)
      throw unsupported(`${at}/${keyword}`, 'it must be a list of schemas');
    if (keyword === 'oneOf') this.#requireDisjoint(list, at);
    return choice(list.map((item, index) => this.#expression(item, `${at}/${keyword}/${index}`, depth + 1)));
  }

  /** What matches two alternatives is refused by `oneOf`; types or a distinguishing constant keep them apart. */
  #requireDisjoint(list: readonly unknown[], at: string): void {
    const marks = list.map((item) => this.#mark(item, 0));
    const unsure = marks.includes(undefined) || new Set(marks).size !== marks.length;
    const constants = list.flatMap((item) => (isConstant(item) ? [item.const] : []));
    const overlap = marks.some(
      (mark) =>
        constants.some((value) => isOfType(value, mark)) ||
        (mark === 'object' && marks.some((other) => other?.startsWith('property '))),
    );
    // An integer is a number.
    if (unsure || overlap || (marks.includes('integer') && marks.includes('number'))) {
      throw unsupported(
        `${at}/oneOf`,
        'its alternatives may overlap; give them different types, or a property with a different const, or use anyOf',
      );
    }
  }

  #mark(item: unknown, depth: number): string | undefined {
    if (typeof item !== 'object' || item === null || depth > MAX_DEPTH) return undefined;
    const schema = item as Schema;
    if (typeof schema['$ref'] === 'string') return this.#mark(this.#resolve(schema['$ref'], '#'), depth + 1);
    if (isConstant(schema)) return `const ${JSON.stringify(schema['const'])}`;
    if (schema['type'] !== 'object') return typeof schema['type'] === 'string' ? schema['type'] : undefined;
    const required = Array.isArray(schema['required']) ? schema['required'] : [];
    const properties = Object.entries(asObject(schema['properties'] ?? {}, '#/oneOf'));
    for (const [name, property] of properties) {
      if (isConstant(property) && required.includes(name)) return `property ${name} ${JSON.stringify(property.const)}`;
    }
    return 'object';
  }

  #reference(pointer: string, at: string, depth: number): string {
    const known = this.#references.get(pointer);
    if (known !== undefined) return known;
    const target = this.#resolve(pointer, at);
    const name = `r${this.#references.size}`;
    // Before its body: it may refer to itself.
    this.#references.set(pointer, name);
    this.#rules.set(name, '');
    this.#rules.set(name, this.#expression(target, pointer, depth + 1));
    return name;
  }

  #resolve(pointer: string, at: string): unknown {
    if (pointer !== '#' && !pointer.startsWith('#/')) {
      throw unsupported(`${at}/$ref`, `"${pointer}" does not point into this schema`);
    }
    let target: unknown = this.#root;
    for (const part of pointer.split('/').slice(1)) {
      const key = unescaped(part);
      target =
        typeof target === 'object' && target !== null && Object.hasOwn(target, key)
          ? (target as Schema)[key]
          : undefined;
    }
    if (target === undefined) throw unsupported(`${at}/$ref`, `there is nothing at "${pointer}"`);
    return target;
  }

  /** A rule of its own for what is used twice or holds a choice. */
  #rule(body: string): string {
    if (/^\w+$/.test(body)) return body;
    if (this.#rules.size >= MAX_RULES)
      throw unsupported('#', `the schema needs more than ${MAX_RULES} rules; make it smaller`);
    const name = `g${this.#rules.size}`;
    this.#rules.set(name, body);
    return name;
  }

  #repeat(times: number, at: string): void {
    this.#repetitions += times;
    if (this.#repetitions <= MAX_REPETITIONS) return;
    throw unsupported(at, `lengths and counts of the schema add up to more than ${MAX_REPETITIONS}; make them smaller`);
  }

  #addBasics(): void {
    const all = [...this.#rules.values()].join(' ');
    const wanted = new Set<string>();
    const add = (text: string): void => {
      // Words outside of literals and character classes are rule names.
      for (const name of text.replaceAll(/"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]/g, ' ').match(/[a-z]+\d*/g) ?? []) {
        const body = BASIC_RULES[name];
        if (body === undefined || wanted.has(name)) continue;
        wanted.add(name);
        add(body);
      }
    };
    add(all);
    for (const name of wanted) this.#rules.set(name, BASIC_RULES[name] ?? '');
  }
}

function choice(expressions: readonly string[]): string {
  return expressions.length === 1 ? (expressions[0] ?? '') : `(${expressions.join(' | ')})`;
}

/** The JSON text of a value, as a grammar writes it. */
function literal(value: unknown, at: string): string {
  const json = JSON.stringify(value);
  if (json === undefined) throw unsupported(at, 'it is no JSON value');
  // Escaped, what is not ASCII can be said with any vocabulary.
  const ascii = json.replaceAll(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return `"${ascii.replaceAll(/[\\"]/g, '\\$&')}"`;
}

/** Digit by digit: the shortest way to hold an integer within bounds (both inclusive). */
function integerRange(schema: Schema, at: string): string {
  const bound = (name: 'minimum' | 'maximum'): number | undefined => {
    const value = schema[name];
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isFinite(value) || Math.abs(value) > Number.MAX_SAFE_INTEGER) {
      throw unsupported(`${at}/${name}`, 'it must be a safe integer');
    }
    return value;
  };
  const minimum = bound('minimum');
  const maximum = bound('maximum');
  if (minimum === undefined && maximum === undefined) return 'integer';
  const from = Math.ceil(minimum ?? -999_999_999_999_999);
  const to = Math.floor(maximum ?? 999_999_999_999_999);
  if (from > to) throw unsupported(at, `no integer lies between ${from} and ${to}`);
  const parts: string[] = [];
  if (from < 0) parts.push(`"-" (${digitRange(Math.max(1, -Math.min(to, -1)), -from)})`);
  if (to >= 0) parts.push(digitRange(Math.max(0, from), to));
  return `(${parts.join(' | ')})`;
}

/** Alternatives for the integers from `from` to `to`, 0 ≤ from ≤ to. */
function digitRange(from: number, to: number): string {
  const alternatives: string[] = [];
  for (let start = from; start <= to; ) {
    // The longest run start…end that differs in its last digits only, all of them from 0 to 9.
    let free = 0;
    while (start % 10 ** (free + 1) === 0 && start + 10 ** (free + 1) - 1 <= to && start !== 0) free += 1;
    const block = 10 ** free;
    const first = Math.floor(start / block);
    const lastOfDigit = first - (first % 10) + 9;
    const last = Math.min(lastOfDigit, Math.floor((to + 1) / block) - 1);
    const head = String(first).slice(0, -1);
    const [low, high] = [first % 10, last % 10];
    const digit = low === high ? `"${low}"` : `[${low}-${high}]`;
    const tail = free === 0 ? '' : ` [0-9]{${free}}`;
    alternatives.push(`${head === '' ? '' : `"${head}" `}${digit}${tail}`);
    start = (last + 1) * block;
  }
  return alternatives.join(' | ');
}

function inferredType(schema: Schema): string | undefined {
  return ['object', 'array', 'string'].find((type) => (KEYWORDS[type] ?? []).some((keyword) => keyword in schema));
}

function isOfType(value: unknown, type: unknown): boolean {
  switch (type) {
    case 'null':
      return value === null;
    case 'integer':
      return Number.isInteger(value);
    case 'array':
      return Array.isArray(value);
    case 'object':
      return typeof value === 'object' && value !== null && !Array.isArray(value);
    default:
      return typeof value === type;
  }
}

function isConstant(schema: unknown): schema is { readonly const: unknown } {
  return typeof schema === 'object' && schema !== null && 'const' in schema;
}

function refuseOthers(schema: Schema, allowed: readonly string[], at: string): void {
  const other = Object.keys(schema).find((keyword) => !allowed.includes(keyword) && !ANNOTATIONS.has(keyword));
  if (other !== undefined) throw unsupported(`${at}/${other}`, `the keyword ${other} cannot be enforced here`);
}

function asObject(value: unknown, at: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw unsupported(at, 'it must be an object');
}

function stringList(value: unknown, at: string): readonly string[] {
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value;
  throw unsupported(at, 'it must be a list of names');
}

/** A part of a JSON pointer in a fragment (RFC 6901, section 6). */
function unescaped(part: string): string {
  let decoded = part;
  try {
    decoded = decodeURIComponent(part);
  } catch {
    // A % that begins no character stands for itself.
  }
  return decoded.replaceAll('~1', '/').replaceAll('~0', '~');
}

function count(value: unknown, at: string, most: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw unsupported(at, `it must be an integer from 0 to ${most}`);
}

function unsupported(at: string, why: string): OctomilError {
  return new OctomilError('invalid_input', `response_format: the schema at ${at} cannot be enforced: ${why}`, {
    details: { field: 'response_format', at },
  });
}
