import { OctomilError } from '@octomil/shared/errors';

type Token =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'one' }
  | { readonly kind: 'word' | 'path' }
  | { readonly kind: 'set'; readonly characters: string; readonly negated: boolean };

export interface Glob {
  /** Everything that matches begins with it. */
  readonly prefix: string;
  matches(key: string): boolean;
}

/** Whether a key is a pattern of many keys. */
export function isGlob(key: string): boolean {
  return /[*?[]/.test(key);
}

/**
 * Reads a pattern: `?` is one character, `*` any number of them within a folder, `**` across folders, `[ab0-9]` one of
 * these, `[!ab]` one of the others; `[*]` is a star. Matching takes at most length of pattern × length of key steps.
 *
 * @throws OctomilError `invalid_input` for a bracket that does not close
 */
export function parseGlob(pattern: string): Glob {
  const tokens = tokensOf(pattern);
  const [first] = tokens;
  return { prefix: first?.kind === 'text' ? first.text : '', matches: (key) => matches(tokens, key) };
}

function tokensOf(pattern: string): Token[] {
  const tokens: Token[] = [];
  let text = '';
  const flush = (): void => {
    if (text !== '') tokens.push({ kind: 'text', text });
    text = '';
  };
  for (let at = 0; at < pattern.length; at++) {
    const letter = pattern[at] ?? '';
    if (letter === '*') {
      flush();
      let stars = 1;
      for (; pattern[at + 1] === '*'; at++) stars++;
      // `**/` also stands for no folder at all.
      if (stars > 1 && pattern[at + 1] === '/' && (tokens.length === 0 || endsInSlash(tokens))) {
        at++;
        tokens.push({ kind: 'path' });
      } else tokens.push({ kind: stars > 1 ? 'path' : 'word' });
    } else if (letter === '?') {
      flush();
      tokens.push({ kind: 'one' });
    } else if (letter === '[') {
      const negated = pattern[at + 1] === '!';
      // A bracket that comes first is one of the set.
      const close = pattern.indexOf(']', at + (negated ? 3 : 2));
      if (close < 0) {
        throw new OctomilError(
          'invalid_input',
          `the pattern "${pattern.slice(0, 100)}" has a [ that does not close; write [[] for the character itself`,
        );
      }
      const characters = pattern.slice(at + (negated ? 2 : 1), close);
      at = close;
      if (!negated && characters.length === 1) text += characters;
      else {
        flush();
        tokens.push({ kind: 'set', characters, negated });
      }
    } else text += letter;
  }
  flush();
  return tokens;
}

function endsInSlash(tokens: readonly Token[]): boolean {
  const last = tokens.at(-1);
  return last?.kind === 'text' && last.text.endsWith('/');
}

/** All places of the key that the pattern can have reached, token by token: no backtracking. */
function matches(tokens: readonly Token[], key: string): boolean {
  let reached = new Set([0]);
  for (const token of tokens) {
    const next = new Set<number>();
    for (const at of reached) {
      if (token.kind === 'text') {
        if (key.startsWith(token.text, at)) next.add(at + token.text.length);
      } else if (token.kind === 'one' || token.kind === 'set') {
        const letter = key[at];
        if (letter === undefined || letter === '/') continue;
        if (token.kind === 'one' || inSet(token, letter)) next.add(at + 1);
      } else {
        for (let end = at; end <= key.length && !next.has(end); end++) {
          next.add(end);
          if (token.kind === 'word' && key[end] === '/') break;
        }
      }
    }
    if (next.size === 0) return false;
    reached = next;
  }
  return reached.has(key.length);
}

function inSet({ characters, negated }: { characters: string; negated: boolean }, letter: string): boolean {
  let found = false;
  for (let at = 0; at < characters.length; at++) {
    const from = characters[at] ?? '';
    const to = characters[at + 1] === '-' ? characters[at + 2] : undefined;
    if (to === undefined) found ||= letter === from;
    else {
      found ||= letter >= from && letter <= to;
      at += 2;
    }
  }
  return found !== negated;
}
