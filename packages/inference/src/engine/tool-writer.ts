import type { CallForm, Mark } from './chat-prompt.js';
import type { FinishReason, Said } from './engine.js';
import type { ConstrainedTools } from './engine-messages.js';
import type { Token } from './llama-library.js';
import { StopSequences } from './stop-sequences.js';

/** What ends a passage besides the model itself: the sink asked for it, or no more tokens may come. */
export type PassageEnd = 'model' | 'sink' | 'limit';

/** Writes passages of one answer, each after all before it. */
export interface Pen {
  /** Puts tokens behind what was written, as if the model had chosen them. False where there is no room for them. */
  put(tokens: readonly Token[]): boolean;
  /** Takes back the last passage that was written. */
  takeBack(): void;
  /**
   * Lets the model write on, within a grammar where there is one. The sink is told each piece of text and its token, and
   * says whether that is enough; a piece may be empty.
   */
  write(
    grammar: string | undefined,
    sink: (text: string, token: Token | undefined) => Promise<boolean> | boolean,
  ): Promise<PassageEnd>;
  tokenize(text: string): readonly Token[];
}

export type SaidSink = (said: Said) => Promise<void> | undefined;

/** Calls in one answer; a model that goes on and on is ended. */
const MAX_CALLS = 32;
/** What may stand before the mark of a next call, or of a first one beside a format. */
const MAX_SPACE_TOKENS = 8;

/**
 * An answer in which functions may be called. The model writes freely until it begins a call; from there on, the form
 * around name and arguments is put by us, a name is one of the functions', and arguments are within their grammar: there
 * is no text in which a call has to be looked for, and none that is not valid.
 */
export async function writeWithTools(
  pen: Pen,
  tools: ConstrainedTools,
  form: CallForm,
  text: { readonly grammar: string | undefined; readonly stops: readonly string[] },
  say: SaidSink,
): Promise<FinishReason> {
  if (tools.choice === 'auto') {
    const end =
      text.grammar === undefined
        ? await writeUntilCall(pen, form.startMark, text.stops, say)
        : (await begins(pen, form.startMark))
          ? 'call'
          : await writeAll(pen, text.grammar, (piece) => say({ type: 'text', text: piece }));
    if (end !== 'call') return end;
  }
  const { choice } = tools;
  const functions =
    typeof choice === 'object' ? tools.functions.filter(({ name }) => name === choice.name) : tools.functions;
  for (let index = 0; index < MAX_CALLS; index += 1) {
    if (!pen.put((index === 0 ? form.start : form.next) ?? [])) return index === 0 ? 'length' : 'tool_calls';
    const name = await nameOf(
      pen,
      functions.map((one) => one.name),
    );
    const chosen = functions.find((one) => one.name === name);
    if (chosen === undefined) return index === 0 ? 'length' : 'tool_calls';
    if (!pen.put(pen.tokenize(chosen.name)) || !pen.put(form.middle)) return index === 0 ? 'length' : 'tool_calls';
    await say({ type: 'call', index, name: chosen.name });
    const end = await writeAll(pen, chosen.grammar, (piece) => say({ type: 'arguments', index, text: piece }));
    if (end === 'length') return 'length';
    if (!tools.parallel || form.next === undefined || !pen.put(form.end)) return 'tool_calls';
    if (!(await begins(pen, form.nextMark))) return 'tool_calls';
  }
  return 'tool_calls';
}

async function writeAll(
  pen: Pen,
  grammar: string,
  say: (text: string) => Promise<void> | undefined,
): Promise<'stop' | 'length'> {
  const end = await pen.write(grammar, async (text) => {
    if (text !== '') await say(text);
    return false;
  });
  return end === 'limit' ? 'length' : 'stop';
}

/** Says what comes before a call, where one comes. */
async function writeUntilCall(
  pen: Pen,
  mark: Mark,
  stops: readonly string[],
  say: SaidSink,
): Promise<'call' | 'stop' | 'length'> {
  const marks = new StopSequences([mark.text]);
  const ends = new StopSequences(stops);
  let before = '';
  let reason: 'call' | 'stop' | undefined;
  const hear = async (text: string): Promise<void> => {
    const said = ends.add(text);
    before += said.text;
    if (said.text !== '') await say({ type: 'text', text: said.text });
    if (said.stopped) reason = 'stop';
  };
  const end = await pen.write(undefined, async (text, token) => {
    const free = marks.add(text);
    await hear(free.text);
    if (reason === undefined && (free.stopped || (token !== undefined && token === mark.token))) reason = 'call';
    return reason !== undefined;
  });
  if (reason === 'call') {
    const rest = ends.end();
    if (rest !== '') await say({ type: 'text', text: rest });
    // Up to the mark, which is put anew with what follows it.
    pen.takeBack();
    return pen.put(pen.tokenize(before + rest)) ? 'call' : 'length';
  }
  if (reason === undefined) await hear(marks.end());
  const rest = reason === undefined ? ends.end() : '';
  if (rest !== '') await say({ type: 'text', text: rest });
  return reason ?? (end === 'limit' ? 'length' : 'stop');
}

/** Whether the model goes on with the mark; nothing of it is kept. */
async function begins(pen: Pen, mark: Mark): Promise<boolean> {
  let text = '';
  let tokens = 0;
  let found = false;
  await pen.write(undefined, (piece, token) => {
    text = (text + piece).trimStart();
    tokens += 1;
    found = (token !== undefined && token === mark.token) || text.startsWith(mark.text);
    return found || !mark.text.startsWith(text) || (text === '' && tokens >= MAX_SPACE_TOKENS);
  });
  pen.takeBack();
  return found;
}

/** Undefined where no room was left. */
async function nameOf(pen: Pen, names: readonly string[]): Promise<string | undefined> {
  if (names.length === 1) return names[0];
  let name = '';
  const grammar = `root ::= ${names.map((one) => JSON.stringify(one)).join(' | ')}`;
  await pen.write(grammar, (text) => {
    name += text;
    return false;
  });
  pen.takeBack();
  return name;
}
