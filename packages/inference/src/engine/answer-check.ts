import { OctomilError } from '@octomil/shared/errors';
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { ResponseFormat, ToolFunction } from './engine.js';
import { JSON_OBJECT_GRAMMAR, schemaToGrammar } from './schema-grammar.js';

/** How an answer is held to a format: by a grammar while it is made, and by a check of the whole. */
export interface FormatRule {
  readonly grammar: string;
  /** @throws OctomilError `inference_failed` for a text that is not of the format */
  check(text: string): void;
}

const MAX_KEPT = 64;
const MAX_SCHEMA_CHARACTERS = 131_072;
/** The last schemas that were used: most programs have a few, and use them again and again. */
const kept = new Map<string, FormatRule>();

/** @throws OctomilError `invalid_input` for a schema that cannot be enforced */
export function checkFormat(format: ResponseFormat): void {
  formatRule(format);
}

/**
 * Undefined for plain text.
 *
 * @throws OctomilError `invalid_input` for a schema that cannot be enforced
 */
export function formatRule(format: ResponseFormat): FormatRule | undefined {
  if (format.type === 'text') return undefined;
  const key = format.type === 'json_object' ? 'null' : textOf(format.schema);
  const rule = kept.get(key) ?? makeRule(format);
  kept.delete(key);
  kept.set(key, rule);
  const [oldest] = kept.keys();
  if (kept.size > MAX_KEPT && oldest !== undefined) kept.delete(oldest);
  return rule;
}

/** What a program says of its functions, and the schemas, may be as long as this in all. */
export const MAX_TOOL_CHARACTERS = 262_144;

/**
 * The functions with the grammars of their arguments, and by name the checks of whole ones.
 *
 * @throws OctomilError `invalid_input` for parameters that cannot be enforced
 */
export function toolRules(functions: readonly ToolFunction[]): {
  readonly functions: readonly (ToolFunction & { readonly grammar: string })[];
  readonly checks: ReadonlyMap<string, FormatRule>;
} {
  const checks = new Map<string, FormatRule>();
  const ruled = functions.map((one, index) => {
    const rule = parametersRule(one, `tools.${index}.function.parameters`);
    checks.set(one.name, rule);
    return { ...one, grammar: rule.grammar };
  });
  return { functions: ruled, checks };
}

function parametersRule({ name, parameters }: ToolFunction, field: string): FormatRule {
  const properties = parameters['properties'];
  const hasNone = properties === undefined || (isRecord(properties) && Object.keys(properties).length === 0);
  // Of a function without parameters nobody means that it takes any.
  const schema =
    hasNone && parameters['type'] === 'object' ? { ...parameters, additionalProperties: false } : parameters;
  try {
    const rule = formatRule({ type: 'json_schema', name, schema });
    if (rule !== undefined && parameters['type'] === 'object') return rule;
  } catch (error) {
    if (!(error instanceof OctomilError) || error.code !== 'invalid_input') throw error;
    throw new OctomilError('invalid_input', error.reason.replace(/^response_format/, field), {
      cause: error,
      details: { ...error.details, field },
    });
  }
  throw new OctomilError('invalid_input', `${field} must be a schema with "type": "object"`, { details: { field } });
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** @throws OctomilError `invalid_input` for one that would keep the engine from everything else while it is read */
function textOf(schema: Readonly<Record<string, unknown>>): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(schema);
  } catch {
    // It nests deeper than the stack is.
  }
  if (text !== undefined && text.length <= MAX_SCHEMA_CHARACTERS) return text;
  const size = text === undefined ? 'nests too deep' : `has ${text.length} characters`;
  throw new OctomilError('invalid_input', `response_format: the schema ${size}; it may have ${MAX_SCHEMA_CHARACTERS}`, {
    details: { field: 'response_format', limit: MAX_SCHEMA_CHARACTERS },
  });
}

function makeRule(format: Exclude<ResponseFormat, { type: 'text' }>): FormatRule {
  switch (format.type) {
    case 'json_object':
      return {
        grammar: JSON_OBJECT_GRAMMAR,
        check: (text) => {
          const value = parse(text);
          if (typeof value !== 'object' || value === null || Array.isArray(value)) throw violation('is no JSON object');
        },
      };
    case 'json_schema': {
      const grammar = schemaToGrammar(format.schema);
      const validate = compile(format.schema);
      return {
        grammar,
        check: (text) => {
          if (!validate(parse(text))) throw violation('does not match the schema');
        },
      };
    }
  }
}

function compile(schema: Readonly<Record<string, unknown>>): (value: unknown) => boolean {
  // Which draft it says to be of does not matter: the keywords that are let through mean the same in all.
  const { $schema: _, ...plain } = schema;
  try {
    // An instance of its own, so that an $id may come again in another schema.
    const validate = new Ajv2020({ strict: false, validateFormats: false, validateSchema: false }).compile(plain);
    return (value) => validate(value) === true;
  } catch (cause) {
    throw new OctomilError('invalid_input', 'response_format: the schema is not a valid JSON schema', {
      cause,
      details: { field: 'response_format' },
    });
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw violation('is not JSON');
  }
}

function violation(what: string): OctomilError {
  return new OctomilError('inference_failed', `the model's answer ${what}, and was not passed on as one that does`);
}
