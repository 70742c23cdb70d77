import { OctomilError } from '@octomil/shared/errors';
import { type Static, Type } from 'typebox';
import type { ChatMessage, ResponseFormat, ToolCall, ToolUse } from '../engine/index.js';
import { type GivenSampling, refuseFields } from './sampling.js';
import { checkToolTurns, readTools } from './tool-fields.js';

const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
const MAX_ITEMS = 10_000;
const Item = Type.Record(Type.String(), Type.Unknown());

/** What may be asked of `/v1/responses`. Other fields are either without effect here, or refused. */
export const ResponseBody = Type.Object({
  model: Type.String({ minLength: 1, maxLength: 1_000 }),
  input: Type.Union([Type.String({ minLength: 1 }), Type.Array(Item, { minItems: 1, maxItems: MAX_ITEMS })]),
  instructions: OrNull(Type.String()),
  max_output_tokens: OrNull(Type.Integer({ minimum: 1 })),
  temperature: OrNull(Type.Number({ minimum: 0, maximum: 2 })),
  top_p: OrNull(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
  stream: OrNull(Type.Boolean()),
  store: OrNull(Type.Boolean()),
  metadata: OrNull(Type.Record(Type.String(), Type.String())),
  previous_response_id: OrNull(Type.String()),
  truncation: OrNull(Type.String()),
  text: OrNull(Type.Object({ format: OrNull(Type.Object({ type: Type.String() })) })),
  tools: OrNull(
    Type.Array(
      Type.Object({
        type: Type.String(),
        name: Type.Optional(Type.String({ maxLength: 200 })),
        description: OrNull(Type.String()),
        parameters: OrNull(Type.Record(Type.String(), Type.Unknown())),
      }),
    ),
  ),
  tool_choice: Type.Optional(Type.Unknown()),
  parallel_tool_calls: OrNull(Type.Boolean()),
});
export type GivenResponse = Static<typeof ResponseBody>;

export interface AskedResponse {
  readonly messages: readonly ChatMessage[];
  readonly sampling: GivenSampling;
}

/** They would change what comes back, and nothing here does what they ask. */
const REFUSED = ['background', 'conversation', 'prompt', 'max_tool_calls', 'top_logprobs', 'reasoning'] as const;

/** @throws OctomilError `invalid_input`, `unsupported_modality` naming the field */
export function readResponse(body: GivenResponse): AskedResponse {
  refuseFields(body, REFUSED);
  if (body.previous_response_id) {
    throw invalid(
      'previous_response_id',
      'names a response, and this server keeps none; send what was said before as items of input',
    );
  }
  if (body.truncation && body.truncation !== 'disabled') {
    throw invalid('truncation', `is ${shown(body.truncation)}; a prompt is never cut here`);
  }
  const messages = [
    ...(body.instructions ? [{ role: 'system' as const, content: body.instructions }] : []),
    ...(typeof body.input === 'string' ? [{ role: 'user' as const, content: body.input }] : readItems(body.input)),
  ];
  checkToolTurns(messages);
  const tools = readTools({
    functions: (body.tools ?? []).map(({ type, name = '', description, parameters }, index) => {
      if (type !== 'function')
        throw invalid(`tools.${index}.type`, `is ${shown(type)}; only functions can be called here`);
      return { name, description, parameters };
    }),
    choice: body.tool_choice,
    parallel: body.parallel_tool_calls,
  });
  const given: { [K in keyof GivenSampling]: GivenSampling[K] | null | undefined } = {
    maxTokens: body.max_output_tokens,
    temperature: body.temperature,
    topP: body.top_p,
    responseFormat: readFormat(body.text?.format),
    tools: tools satisfies ToolUse | undefined,
  };
  return {
    messages,
    sampling: Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined && value !== null)),
  };
}

function readItems(items: readonly Static<typeof Item>[]): readonly ChatMessage[] {
  const messages: ChatMessage[] = [];
  for (const [index, item] of items.entries()) {
    const at = `input.${index}`;
    switch (item['type'] ?? 'message') {
      case 'message':
        messages.push({ role: roleOf(item['role'], at), content: textOf(item['content'], `${at}.content`) });
        break;
      case 'function_call': {
        const call = {
          id: text(item, 'call_id', at),
          name: text(item, 'name', at),
          arguments: text(item, 'arguments', at),
        };
        addCall(messages, call);
        break;
      }
      case 'function_call_output':
        messages.push({
          role: 'tool',
          toolCallId: text(item, 'call_id', at),
          content: textOf(item['output'], `${at}.output`),
        });
        break;
      case 'reasoning':
        // What a model thought before is not given to it again.
        break;
      default:
        throw invalid(
          `${at}.type`,
          `is ${shown(item['type'])}; it may be message, function_call, function_call_output or reasoning`,
        );
    }
  }
  if (messages.length === 0) throw invalid('input', 'holds nothing to answer');
  return messages;
}

/** Calls belong to the turn that they stand behind. */
function addCall(messages: ChatMessage[], call: ToolCall): void {
  const last = messages.at(-1);
  if (last?.role !== 'assistant') messages.push({ role: 'assistant', content: '', toolCalls: [call] });
  else messages[messages.length - 1] = { ...last, toolCalls: [...(last.toolCalls ?? []), call] };
}

function roleOf(role: unknown, at: string): ChatMessage['role'] {
  if (role === 'developer') return 'system';
  if (role === 'system' || role === 'user' || role === 'assistant') return role;
  throw invalid(`${at}.role`, `is ${shown(role)}; it must be system, developer, user or assistant`);
}

function textOf(content: unknown, field: string): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) throw invalid(field, 'must be a text or a list of parts');
  return content
    .map((part: unknown) => {
      const { type, text: own, refusal } = (part ?? {}) as Record<string, unknown>;
      if ((type === 'input_text' || type === 'output_text' || type === 'text') && typeof own === 'string') return own;
      if (type === 'refusal' && typeof refusal === 'string') return refusal;
      throw new OctomilError(
        'unsupported_modality',
        `${field} holds a part of type ${shown(type)}; only text is read`,
        {
          details: { field },
        },
      );
    })
    .join('');
}

function text(item: Static<typeof Item>, name: string, at: string): string {
  const value = item[name];
  if (typeof value === 'string' && (value !== '' || name === 'output')) return value;
  throw invalid(`${at}.${name}`, 'must be a text');
}

function readFormat(format: object | null | undefined): ResponseFormat | undefined {
  if (format === undefined || format === null) return undefined;
  const { type, name, schema } = format as Record<string, unknown>;
  if (type === 'text' || type === 'json_object') return { type };
  if (type !== 'json_schema') {
    throw invalid('text.format.type', `is ${shown(type)}; it must be text, json_object or json_schema`);
  }
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) {
    throw invalid('text.format.schema', 'must be a JSON schema');
  }
  return { type, name: typeof name === 'string' ? name : 'answer', schema: schema as Record<string, unknown> };
}

function invalid(field: string, problem: string): OctomilError {
  return new OctomilError('invalid_input', `${field} ${problem}`, { details: { field } });
}

function shown(value: unknown): string {
  return String(JSON.stringify(value)).slice(0, 80);
}
