import { OctomilError } from '@octomil/shared/errors';
import { Type } from 'typebox';
import { type ChatMessage, MAX_TOOL_CHARACTERS, type ToolFunction, type ToolUse, toolRules } from '../engine/index.js';

const MAX_TOOLS = 128;
const NAME = /^[a-zA-Z0-9_-]{1,64}$/;
const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));

/** A function, as OpenAI's and Ollama's clients describe it. */
const FunctionBody = Type.Object({
  name: Type.String({ maxLength: 200 }),
  description: OrNull(Type.String()),
  parameters: OrNull(Type.Record(Type.String(), Type.Unknown())),
});
export const ToolBody = Type.Object({ type: Type.String(), function: FunctionBody });

export interface GivenFunction {
  readonly name: string;
  readonly description?: string | null | undefined;
  readonly parameters?: Readonly<Record<string, unknown>> | null | undefined;
}

export interface GivenTools {
  readonly functions: readonly GivenFunction[];
  /** `none`, `auto`, `required`, or an object that names a function. Default `auto`. */
  readonly choice: unknown;
  /** Default true. */
  readonly parallel: boolean | null | undefined;
}

/** The functions of `tools`. @throws OctomilError `invalid_input` for a tool that is no function */
export function functionsOf(tools: readonly Type.Static<typeof ToolBody>[]): GivenFunction[] {
  return tools.map((tool, index) => {
    if (tool.type === 'function') return tool.function;
    throw invalid(`tools.${index}.type`, `is ${shown(tool.type)}; only functions can be called here`);
  });
}

/**
 * What may be called; undefined where nothing may.
 *
 * @throws OctomilError `invalid_input` naming the field: too many functions, names that come twice, parameters that
 * arguments cannot be held to, a choice that names none of them
 */
export function readTools({ functions, choice, parallel }: GivenTools): ToolUse | undefined {
  if (functions.length > MAX_TOOLS) throw invalid('tools', `are ${functions.length}; there may be ${MAX_TOOLS}`);
  const read = functions.map(readFunction);
  const characters = JSON.stringify(read).length;
  if (characters > MAX_TOOL_CHARACTERS) {
    throw invalid('tools', `have ${characters} characters; they may have ${MAX_TOOL_CHARACTERS}`);
  }
  const names = new Set<string>();
  for (const [index, { name }] of read.entries()) {
    if (names.has(name)) throw invalid(`tools.${index}.function.name`, `is "${name}", as that of another one`);
    names.add(name);
  }
  toolRules(read);
  const chosen = readChoice(choice, names);
  return chosen === 'none' || read.length === 0
    ? undefined
    : { functions: read, choice: chosen, parallel: parallel ?? true };
}

function readFunction({ name, description, parameters }: GivenFunction, index: number): ToolFunction {
  if (!NAME.test(name)) {
    throw invalid(`tools.${index}.function.name`, `is ${shown(name)}; it may have 64 letters, digits, _ and -`);
  }
  return {
    name,
    description: description ?? undefined,
    parameters: parameters ?? { type: 'object', properties: {}, additionalProperties: false },
  };
}

function readChoice(choice: unknown, names: ReadonlySet<string>): ToolUse['choice'] | 'none' {
  if (choice === undefined || choice === null) return 'auto';
  if (choice === 'none' || choice === 'auto') return choice;
  if (choice === 'required') {
    if (names.size > 0) return choice;
    throw invalid('tool_choice', 'is required, and there are no tools');
  }
  const { type, name, function: inner } = (typeof choice === 'object' ? choice : {}) as Record<string, unknown>;
  const named = name ?? (inner as { name?: unknown } | undefined)?.name;
  if (type !== 'function' || typeof named !== 'string') {
    throw invalid('tool_choice', `is ${shown(choice)}; it must be none, auto, required, or name a function`);
  }
  if (names.has(named)) return { name: named };
  throw invalid('tool_choice', `names ${shown(named)}, which is none of the tools`);
}

/**
 * Every call has its result behind it, and every result a call before it.
 *
 * @throws OctomilError `invalid_input` naming the message
 */
export function checkToolTurns(messages: readonly ChatMessage[]): void {
  let open = new Set<string>();
  const requireAnswers = (index: number): void => {
    const [missing] = open;
    if (missing === undefined) return;
    throw invalid(`messages.${index}`, `comes before what the call ${shown(missing)} gave`);
  };
  for (const [index, { role, toolCalls = [], toolCallId }] of messages.entries()) {
    if (role === 'tool') {
      if (toolCallId === undefined) throw invalid(`messages.${index}.tool_call_id`, 'is missing');
      if (!open.delete(toolCallId)) {
        throw invalid(
          `messages.${index}.tool_call_id`,
          `is ${shown(toolCallId)}, which is no call of the turn before it`,
        );
      }
      continue;
    }
    requireAnswers(index);
    if (toolCalls.length > 0 && role !== 'assistant') {
      throw invalid(`messages.${index}.tool_calls`, 'belong to messages of the assistant');
    }
    for (const [place, call] of toolCalls.entries()) {
      const at = `messages.${index}.tool_calls.${place}`;
      if (!NAME.test(call.name))
        throw invalid(`${at}.function.name`, `is ${shown(call.name)}, which no function can be called`);
      if (!isObject(call.arguments)) throw invalid(`${at}.function.arguments`, 'must be a JSON object as text');
    }
    open = new Set(toolCalls.map(({ id }) => id));
    if (open.size < toolCalls.length) throw invalid(`messages.${index}.tool_calls`, 'have an id twice');
  }
  requireAnswers(messages.length);
}

function isObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

function invalid(field: string, problem: string): OctomilError {
  return new OctomilError('invalid_input', `${field} ${problem}`, { details: { field } });
}

function shown(value: unknown): string {
  return String(JSON.stringify(value)).slice(0, 80);
}
