/** As a shell reads it. */
export function quoted(word: unknown): string {
  const text = String(word);
  return /^[\w./:@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
