import type { Said } from './engine.js';
import type { SaidOnWire } from './engine-messages.js';
import type { Token } from './llama-library.js';
import { StopSequences } from './stop-sequences.js';
import { TokenText } from './token-text.js';
import type { PassageEnd, Pen } from './tool-writer.js';

/** Of a sequence and its model, what a pen needs. */
export interface Paper {
  /** Reads all but the last of the tokens. Returns how many of them were known before. */
  read(tokens: readonly Token[]): Promise<number>;
  /** Writes on behind the last token that was read up to; `written` grows with what comes. */
  evaluate(
    last: Token,
    written: readonly Token[],
    passage: number,
    grammar: string | undefined,
  ): Promise<AsyncIterable<Token>>;
  detokenize(tokens: readonly Token[], lastTokens: readonly Token[]): string;
  tokenize(text: string): readonly Token[];
  /** What has to be waited for before the next token. */
  pause(): Promise<void> | undefined;
  readonly signal: AbortSignal;
}

/** Writes an answer behind a prompt, in one passage or in several. */
export class SequencePen implements Pen {
  /** Of the prompt, what was known before. */
  cachedTokens = 0;
  readonly #tokens: Token[];
  readonly #promptLength: number;
  readonly #limit: number;
  readonly #paper: Paper;
  #passages = 0;
  #passageStart: number;

  /** @param limit tokens that the answer may have, at least 1 */
  constructor(prompt: readonly Token[], limit: number, paper: Paper) {
    this.#tokens = [...prompt];
    this.#promptLength = prompt.length;
    this.#passageStart = prompt.length;
    this.#limit = limit;
    this.#paper = paper;
  }

  /** Tokens of the answer so far. */
  get written(): number {
    return this.#tokens.length - this.#promptLength;
  }

  put(tokens: readonly Token[]): boolean {
    // One more has to fit, or nothing could follow.
    if (this.written + tokens.length >= this.#limit) return false;
    this.#tokens.push(...tokens);
    return true;
  }

  takeBack(): void {
    this.#tokens.length = this.#passageStart;
  }

  tokenize(text: string): readonly Token[] {
    return text === '' ? [] : this.#paper.tokenize(text);
  }

  async write(
    grammar: string | undefined,
    sink: (text: string, token: Token | undefined) => Promise<boolean> | boolean,
  ): Promise<PassageEnd> {
    const { signal } = this.#paper;
    const known = await this.#paper.read(this.#tokens);
    if (this.#passages === 0) this.cachedTokens = known;
    this.#passageStart = this.#tokens.length;
    const text = new TokenText((some, last) => this.#paper.detokenize(some, last));
    const own: Token[] = [];
    const last = this.#tokens.at(-1) ?? 0;
    const evaluation = await this.#paper.evaluate(last, own, this.#passages, grammar);
    this.#passages += 1;
    for await (const token of evaluation) {
      signal.throwIfAborted();
      own.push(token);
      this.#tokens.push(token);
      if (await sink(text.add(token), token)) return 'sink';
      if (this.written >= this.#limit) {
        return (await this.#finish(text, sink)) ? 'sink' : 'limit';
      }
      await this.#paper.pause();
    }
    signal.throwIfAborted();
    return (await this.#finish(text, sink)) ? 'sink' : 'model';
  }

  /** What of a character is left when no more comes. */
  async #finish(text: TokenText, sink: Parameters<Pen['write']>[1]): Promise<boolean> {
    const rest = text.end();
    return rest !== '' && (await sink(rest, undefined));
  }
}

/** An answer in one passage, up to the first of the stop sequences. */
export async function writeText(
  pen: Pen,
  grammar: string | undefined,
  stops: readonly string[],
  say: (text: string) => Promise<void> | undefined,
): Promise<'stop' | 'length'> {
  const ends = new StopSequences(stops);
  const end = await pen.write(grammar, async (piece) => {
    const { text, stopped } = ends.add(piece);
    if (text !== '') await say(text);
    return stopped;
  });
  if (end === 'sink') return 'stop';
  const rest = ends.end();
  if (rest !== '') await say(rest);
  return end === 'limit' ? 'length' : 'stop';
}

export function onWire(said: Said): SaidOnWire {
  return said.type === 'text' ? said.text : said;
}
