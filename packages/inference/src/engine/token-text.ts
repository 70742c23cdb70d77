const UNFINISHED = '\uFFFD';
/** A character has four bytes at most, and a token one at least. */
const MAX_PENDING = 4;
/** What a tokenizer looks back at for spaces between tokens. */
const CONTEXT_TOKENS = 8;

/** The text of tokens as they come; a character that several tokens spell is held back until it is whole. */
export class TokenText {
  readonly #detokenize: (tokens: readonly number[], lastTokens: readonly number[]) => string;
  #pending: number[] = [];
  #last: number[] = [];

  constructor(detokenize: (tokens: readonly number[], lastTokens: readonly number[]) => string) {
    this.#detokenize = detokenize;
  }

  add(token: number): string {
    this.#pending.push(token);
    const text = this.#detokenize(this.#pending, this.#last);
    if (text.endsWith(UNFINISHED) && this.#pending.length < MAX_PENDING) return '';
    return this.#release(text);
  }

  /** What is still held back when no more tokens come. */
  end(): string {
    return this.#pending.length === 0 ? '' : this.#release(this.#detokenize(this.#pending, this.#last));
  }

  #release(text: string): string {
    this.#last = [...this.#last, ...this.#pending].slice(-CONTEXT_TOKENS);
    this.#pending = [];
    return text;
  }
}
