import type { ChatMessage, ToolCall, ToolFunction } from './engine.js';
import type {
  ChatItem,
  ChatWrapper,
  FunctionCallItem,
  LlamaLibrary,
  LlamaModel,
  TextParts,
  Token,
} from './llama-library.js';

/** How a model is to write a call: the tokens around the name and the arguments, which it is not asked to choose. */
export interface CallForm {
  /** From the beginning of the first call to its name. */
  readonly start: readonly Token[];
  /** From the end of a call to the name of the next; undefined where an answer has one call. */
  readonly next: readonly Token[] | undefined;
  /** Between the name and the arguments. */
  readonly middle: readonly Token[];
  readonly end: readonly Token[];
  /** A model that writes this begins a call. */
  readonly startMark: Mark;
  readonly nextMark: Mark;
}

/** What a beginning is known by: its text, or a control token, which has none. */
export interface Mark {
  readonly text: string;
  readonly token: Token | undefined;
}

export interface ChatPrompt {
  readonly tokens: Token[];
  /** The end of a turn, where a model spells it. */
  readonly ends: readonly string[];
  readonly form: CallForm;
}

/** Whose own form of calls is known to hold JSON; other models are told the plain one. */
const KNOWN_FORMS: ReadonlySet<string> = new Set([
  'Qwen',
  'Llama 3.1',
  'Llama 3.2 lightweight',
  'Mistral',
  'JinjaTemplate',
]);
/** The library's own invention, for templates that say nothing of functions. */
const NO_FORM = '||call: ';

/**
 * The prompt of a conversation by the chat template of a model. Functions are described, and calls and results are
 * written, as the template has it; where it has no form for them, in the plain form: a `<tools>` list in the system
 * message, `<tool_call>` around a JSON object, `<tool_response>` around a result. Text of messages is never read as
 * control tokens.
 */
export function chatPrompt(
  library: LlamaLibrary,
  model: LlamaModel,
  wrapper: ChatWrapper,
  messages: readonly ChatMessage[],
  functions: readonly ToolFunction[],
): ChatPrompt {
  const { call, parallelism } = wrapper.settings.functions;
  const hasForm = KNOWN_FORMS.has(wrapper.wrapperName) && textOf(library, call.prefix) !== NO_FORM;
  const state = hasForm
    ? wrapper.generateContextState({
        chatHistory: withCalls(messages),
        documentFunctionParams: true,
        ...(functions.length === 0 ? {} : { availableFunctions: asAvailable(functions) }),
      })
    : wrapper.generateContextState({ chatHistory: plainHistory(messages, functions) });
  const tokens = (...parts: readonly TextParts[]): Token[] => library.LlamaText(parts).tokenize(model.tokenizer);
  const { sectionPrefix = '', betweenCalls = '' } = parallelism?.call ?? {};
  const form = hasForm
    ? {
        start: tokens(sectionPrefix, call.prefix),
        next: parallelism === undefined ? undefined : tokens(betweenCalls, call.prefix),
        middle: tokens(call.paramsPrefix),
        end: tokens(call.suffix),
      }
    : {
        start: tokens(PLAIN.start),
        next: tokens(`\n${PLAIN.start}`),
        middle: tokens(PLAIN.middle),
        end: tokens(PLAIN.end),
      };
  return {
    tokens: state.contextText.tokenize(model.tokenizer),
    ends: state.stopGenerationTriggers.filter((trigger) => typeof trigger === 'string'),
    form: {
      ...form,
      startMark: mark(model, form.start, hasForm ? textOf(library, sectionPrefix, call.prefix) : PLAIN.start),
      nextMark: mark(model, form.next ?? [], hasForm ? textOf(library, betweenCalls, call.prefix) : PLAIN.start),
    },
  };
}

const PLAIN = {
  start: '<tool_call>\n{"name": "',
  middle: '", "arguments": ',
  end: '}\n</tool_call>',
} as const;

function textOf(library: LlamaLibrary, ...parts: readonly TextParts[]): string {
  return library.LlamaText(parts).toString();
}

/** Its first line as far as it is no JSON: models differ in the spaces that follow. */
function mark(model: LlamaModel, tokens: readonly Token[], text: string): Mark {
  const whole = text.trim();
  const at = whole.search(/[\n{]/);
  const [first] = tokens;
  return {
    text: at > 0 ? whole.slice(0, at).trim() : whole,
    token: first !== undefined && model.isSpecialToken(first) ? first : undefined,
  };
}

function asAvailable(functions: readonly ToolFunction[]): Record<string, { description?: string; params: object }> {
  return Object.fromEntries(
    functions.map(({ name, description, parameters }) => [
      name,
      { ...(description === undefined ? {} : { description }), params: parameters },
    ]),
  );
}

/** The library has calls with their results inside of the turn that called. */
function withCalls(messages: readonly ChatMessage[]): ChatItem[] {
  const results = new Map(
    messages.flatMap(({ role, toolCallId, content }) =>
      role === 'tool' && toolCallId !== undefined ? [[toolCallId, content] as const] : [],
    ),
  );
  const items: ChatItem[] = [];
  let open: (string | FunctionCallItem)[] | undefined;
  for (const { role, content, toolCalls = [] } of messages) {
    if (role === 'tool') continue;
    if (role !== 'assistant') {
      items.push({ type: role, text: content });
      open = undefined;
      continue;
    }
    if (open === undefined) {
      open = [];
      items.push({ type: 'model', response: open });
    }
    if (content !== '') open.push(content);
    open.push(...toolCalls.map((call, index) => functionCall(call, results.get(call.id), index === 0)));
    // After results the same turn goes on.
    if (toolCalls.length === 0) open = undefined;
  }
  if (open === undefined) items.push({ type: 'model', response: [] });
  return items;
}

function functionCall(call: ToolCall, result: string | undefined, startsNewChunk: boolean): FunctionCallItem {
  return {
    type: 'functionCall',
    name: call.name,
    params: parsed(call.arguments),
    // The library writes what is not text as JSON.
    result: parsed(result ?? ''),
    startsNewChunk,
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function plainHistory(messages: readonly ChatMessage[], functions: readonly ToolFunction[]): ChatItem[] {
  const items: ChatItem[] = messages.map(({ role, content, toolCalls = [] }) => {
    if (role === 'tool') return { type: 'user', text: `<tool_response>\n${content}\n</tool_response>` };
    if (role !== 'assistant') return { type: role, text: content };
    const calls = toolCalls.map(
      ({ name, arguments: given }) => `${PLAIN.start}${name}${PLAIN.middle}${given}${PLAIN.end}`,
    );
    return { type: 'model', response: [[...(content === '' ? [] : [content]), ...calls].join('\n')] };
  });
  items.push({ type: 'model', response: [] });
  if (functions.length === 0) return items;
  const [first] = items;
  const text = plainDescription(functions);
  if (first?.type !== 'system') return [{ type: 'system', text }, ...items];
  return [{ type: 'system', text: `${first.text}\n\n${text}` }, ...items.slice(1)];
}

function plainDescription(functions: readonly ToolFunction[]): string {
  const list = functions.map(({ name, description, parameters }) => JSON.stringify({ name, description, parameters }));
  return [
    'You may call these functions:',
    '<tools>',
    ...list,
    '</tools>',
    'To call one, end your answer with a JSON object with its name and its arguments:',
    `${PLAIN.start}<name>${PLAIN.middle}<object>${PLAIN.end}`,
    'What it gives comes back within <tool_response></tool_response>.',
  ].join('\n');
}
