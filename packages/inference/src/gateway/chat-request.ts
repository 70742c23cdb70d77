import { OctomilError } from '@octomil/shared/errors';
import { type Static, Type } from 'typebox';
import type { ChatMessage, ResponseFormat, ToolCall, ToolFunction } from '../engine/index.js';
import type { ChatRequest } from './backend.js';

const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));

export const ModelName = Type.String({ minLength: 1, maxLength: 1000 });
const MAX_MESSAGES = 10_000;
const Message = Type.Object({
  role: Type.String({ maxLength: 20, description: 'system, user, assistant or tool' }),
  /** May be left out where functions were called. */
  content: Type.Optional(
    Type.Union([
      Type.String(),
      Type.Array(Type.Object({ type: Type.String(), text: Type.Optional(Type.String()) })),
      Type.Null(),
    ]),
  ),
  name: OrNull(Type.String({ maxLength: 200 })),
  tool_calls: OrNull(
    Type.Array(
      Type.Object({
        id: Type.String({ minLength: 1, maxLength: 200 }),
        type: Type.Optional(Type.Literal('function')),
        function: Type.Object({ name: Type.String({ minLength: 1, maxLength: 64 }), arguments: Type.String() }),
      }),
      { maxItems: 128 },
    ),
  ),
  tool_call_id: OrNull(Type.String({ minLength: 1, maxLength: 200 })),
});
const Messages = Type.Array(Message, { minItems: 1, maxItems: MAX_MESSAGES });
const Stop = Type.Union([Type.String({ minLength: 1 }), Type.Array(Type.String({ minLength: 1 }), { maxItems: 16 })]);
/** By the names that OpenAI and published clients use. */
const SAMPLING = {
  temperature: OrNull(Type.Number({ minimum: 0, maximum: 2 })),
  top_p: OrNull(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
  top_k: OrNull(Type.Integer({ minimum: 1 })),
  max_tokens: OrNull(Type.Integer({ minimum: 1 })),
  stop: OrNull(Stop),
  seed: OrNull(Type.Integer()),
  presence_penalty: OrNull(Type.Number({ minimum: -2, maximum: 2 })),
  frequency_penalty: OrNull(Type.Number({ minimum: -2, maximum: 2 })),
  response_format: OrNull(
    Type.Object({
      type: Type.String(),
      json_schema: Type.Optional(
        Type.Object({
          name: Type.Optional(Type.String({ maxLength: 64 })),
          schema: Type.Record(Type.String(), Type.Unknown()),
        }),
      ),
    }),
  ),
};
const Sampling = Type.Object(SAMPLING);
type SamplingFields = Static<typeof Sampling>;

const INPUT = {
  messages: OrNull(Messages),
  /** A prompt as text; or an object with `messages` or `prompt`. */
  input_data: Type.Optional(Type.Unknown()),
};
export const InferenceBody = Type.Object({ model_id: ModelName, ...INPUT, parameters: OrNull(Sampling) });
export const BatchBody = Type.Object({
  model_id: ModelName,
  inputs: Type.Array(Type.Union([Type.String(), Type.Object({ ...INPUT, parameters: OrNull(Sampling) })]), {
    minItems: 1,
    maxItems: 1000,
  }),
  parameters: OrNull(Sampling),
  max_concurrency: OrNull(Type.Integer({ minimum: 1, maximum: 64 })),
});
export const ChatCompletionBody = Type.Object({
  model: ModelName,
  messages: Messages,
  ...SAMPLING,
  max_completion_tokens: OrNull(Type.Integer({ minimum: 1 })),
  n: OrNull(Type.Integer({ minimum: 1 })),
  stream: OrNull(Type.Boolean()),
  stream_options: OrNull(Type.Object({ include_usage: OrNull(Type.Boolean()) })),
  tools: OrNull(Type.Array(Type.Unknown())),
  tool_choice: Type.Optional(Type.Unknown()),
  parallel_tool_calls: OrNull(Type.Boolean()),
});

export type InferenceInput = Pick<Static<typeof InferenceBody>, 'messages' | 'input_data' | 'parameters'>;

/** @throws OctomilError `invalid_input`, `unsupported_modality` naming the field */
export function readInferenceRequest(model: string, input: InferenceInput, field = ''): ChatRequest {
  const parameters = input.parameters ?? {};
  for (const name of Object.keys(parameters)) {
    if (Object.hasOwn(SAMPLING, name)) continue;
    throw invalid(
      `${field}parameters.${name.slice(0, 60)}`,
      `is not known; there are ${Object.keys(SAMPLING).join(', ')}`,
    );
  }
  const { messages, input_data: data } = input;
  if ((messages ?? undefined) === undefined && (data ?? undefined) === undefined) {
    throw invalid(`${field}messages`, 'is missing; send it, or input_data with a prompt');
  }
  if (messages && data !== undefined && data !== null) {
    throw invalid(`${field}input_data`, 'and messages are both there; send one of them');
  }
  return {
    model,
    messages: messages ? readMessages(messages, `${field}messages`) : readInputData(data, `${field}input_data`),
    ...readSampling(parameters, `${field}parameters.`),
  };
}

/** @throws OctomilError `invalid_input`, `unsupported_modality` naming the field */
export function readChatCompletion(body: Static<typeof ChatCompletionBody>): ChatRequest {
  if ((body.n ?? 1) > 1) throw invalid('n', `is ${body.n}; this gateway gives one answer to a request`);
  const { tool_choice: choice = null, parallel_tool_calls: parallel = null } = body;
  // Not every backend can be told more.
  if (choice !== null && choice !== 'auto' && choice !== 'none') {
    throw invalid('tool_choice', `is ${shown(choice)}; this gateway passes on auto and none`);
  }
  const tools = choice === 'none' ? [] : readFunctions(body.tools ?? []);
  if (parallel === false && tools.length > 0) {
    throw invalid('parallel_tool_calls', 'is false, which is not passed on by this gateway');
  }
  return { ...readConversation(body), ...(tools.length === 0 ? {} : { tools }) };
}

const MAX_TOOLS = 128;

function readFunctions(tools: readonly unknown[]): readonly ToolFunction[] {
  if (tools.length > MAX_TOOLS) throw invalid('tools', `are ${tools.length}; there may be ${MAX_TOOLS}`);
  return tools.map((tool, index) => {
    const at = `tools.${index}`;
    const { type, function: given } = (tool ?? {}) as Record<string, unknown>;
    if (type !== 'function') throw invalid(`${at}.type`, `is ${shown(type)}; only functions are passed on`);
    const { name, description, parameters = null } = (given ?? {}) as Record<string, unknown>;
    if (typeof name !== 'string' || !/^[a-zA-Z0-9_.-]{1,64}$/.test(name)) {
      throw invalid(`${at}.function.name`, `is ${shown(name)}; it may have 64 letters, digits, _, - and .`);
    }
    if (typeof parameters !== 'object' || Array.isArray(parameters)) {
      throw invalid(`${at}.function.parameters`, 'must be a JSON schema');
    }
    return {
      name,
      description: typeof description === 'string' ? description : undefined,
      parameters: (parameters as Record<string, unknown> | null) ?? { type: 'object', properties: {} },
    };
  });
}

/** As `readChatCompletion`, with what functions were called and what they gave. */
export function readConversation(body: Static<typeof ChatCompletionBody>): Omit<ChatRequest, 'tools'> {
  const maxTokens = body.max_completion_tokens ?? body.max_tokens;
  return {
    model: body.model,
    messages: readMessages(body.messages, 'messages', true),
    ...readSampling({ ...body, max_tokens: maxTokens ?? null }, ''),
  };
}

function readInputData(data: unknown, field: string): readonly ChatMessage[] {
  const asPrompt = (text: string): readonly ChatMessage[] => {
    if (text === '') throw invalid(field, 'is empty');
    return [{ role: 'user', content: text }];
  };
  if (typeof data === 'string') return asPrompt(data);
  if (typeof data === 'object' && data !== null) {
    const { messages, prompt } = data as { messages?: unknown; prompt?: unknown };
    if (typeof prompt === 'string') return asPrompt(prompt);
    if (Array.isArray(messages) && messages.length > 0 && messages.length <= MAX_MESSAGES) {
      return readMessages(messages as unknown[], `${field}.messages`);
    }
  }
  throw invalid(field, 'must be a text, or an object with messages or prompt');
}

function readMessages(messages: readonly unknown[], field: string, withCalls = false): readonly ChatMessage[] {
  return messages.map((value, index): ChatMessage => {
    const at = `${field}.${index}`;
    if (typeof value !== 'object' || value === null) throw invalid(at, 'must be an object');
    const { role, content, name, tool_calls, tool_call_id } = value as Record<string, unknown>;
    const known = ROLES.get(role);
    if (known === undefined) {
      throw invalid(`${at}.role`, `is ${shown(role)}; it must be system, user, assistant or tool`);
    }
    const toolCalls = readCalls(tool_calls, `${at}.tool_calls`);
    if (toolCalls.length > 0 && !withCalls)
      throw invalid(`${at}.tool_calls`, 'are passed on by /v1/chat/completions only');
    if (content === undefined && toolCalls.length === 0) throw invalid(`${at}.content`, 'is missing');
    return {
      role: known,
      content: readContent(content, `${at}.content`),
      ...(typeof name === 'string' ? { name } : {}),
      ...(toolCalls.length > 0 ? { toolCalls } : {}),
      ...(withCalls && typeof tool_call_id === 'string' ? { toolCallId: tool_call_id } : {}),
    };
  });
}

/** A map: of an object, `constructor` would be a role too. */
const ROLES: ReadonlyMap<unknown, ChatMessage['role']> = new Map([
  ['system', 'system'],
  ['developer', 'system'],
  ['user', 'user'],
  ['assistant', 'assistant'],
  ['tool', 'tool'],
]);

function readCalls(calls: unknown, field: string): readonly ToolCall[] {
  if (calls === undefined || calls === null) return [];
  if (!Array.isArray(calls)) throw invalid(field, 'must be a list');
  return calls.map((call: unknown, index) => {
    const { id, function: called } = (call ?? {}) as { id?: unknown; function?: unknown };
    const { name, arguments: given } = (called ?? {}) as { name?: unknown; arguments?: unknown };
    if (typeof id === 'string' && typeof name === 'string' && typeof given === 'string') {
      return { id, name, arguments: given };
    }
    throw invalid(`${field}.${index}`, 'must have an id, and a function with a name and arguments as text');
  });
}

function readContent(content: unknown, field: string): string {
  if (typeof content === 'string') return content;
  if (content === null || content === undefined) return '';
  if (!Array.isArray(content)) throw invalid(field, 'must be a text or a list of parts');
  return content
    .map((part: unknown) => {
      const { type, text } = (part ?? {}) as { type?: unknown; text?: unknown };
      if (type === 'text' && typeof text === 'string') return text;
      throw new OctomilError(
        'unsupported_modality',
        `${field} holds a part of type ${shown(type)}; only text is passed on`,
        {
          details: { field },
        },
      );
    })
    .join('');
}

function readSampling(fields: SamplingFields, prefix: string): Omit<ChatRequest, 'model' | 'messages'> {
  const { stop, response_format: format } = fields;
  const given = {
    temperature: fields.temperature,
    topP: fields.top_p,
    topK: fields.top_k,
    maxTokens: fields.max_tokens,
    stop: typeof stop === 'string' ? [stop] : stop,
    seed: fields.seed,
    presencePenalty: fields.presence_penalty,
    frequencyPenalty: fields.frequency_penalty,
    responseFormat: format ? readFormat(format, `${prefix}response_format`) : undefined,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined && value !== null)) as Omit<
    ChatRequest,
    'model' | 'messages'
  >;
}

function readFormat(
  { type, json_schema: wanted }: NonNullable<SamplingFields['response_format']>,
  field: string,
): ResponseFormat {
  if (type === 'text' || type === 'json_object') return { type };
  if (type !== 'json_schema')
    throw invalid(`${field}.type`, `is ${shown(type)}; it must be text, json_object or json_schema`);
  if (wanted === undefined) throw invalid(`${field}.json_schema`, 'is missing');
  return { type, name: wanted.name ?? 'answer', schema: wanted.schema };
}

function invalid(field: string, problem: string): OctomilError {
  return new OctomilError('invalid_input', `${field} ${problem}`, { details: { field } });
}

function shown(value: unknown): string {
  return String(JSON.stringify(value)).slice(0, 60);
}
