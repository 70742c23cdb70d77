/** Control characters but for line feeds and tabs, and those that turn the direction of what follows. */
const OBEYED = /(?![\n\t])[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu;

/**
 * A text for a terminal, in which it finds nothing to obey: names and messages come from sites and other organizations,
 * and an escape sequence could rewrite what was shown before, the title or the clipboard.
 */
export function plain(text: string): string {
  return text.replace(OBEYED, '\u{FFFD}');
}
