/**
 * Whether a rule's patterns name one of these (a name, or also an id). In a pattern `*` stands for any characters, also
 * none, and everything else for itself. The site that decides and the coordinator that foresees it ask the same question.
 */
export function isNamed(patterns: readonly string[], ...names: readonly string[]): boolean {
  return patterns.some((pattern) =>
    pattern.includes('*') ? names.some((name) => covers(pattern, name)) : names.includes(pattern),
  );
}

/** In one pass over the name: as a regular expression, many stars against a repetitive name take for ever. */
function covers(pattern: string, name: string): boolean {
  const [start = '', ...parts] = pattern.split('*');
  const end = parts.pop() ?? '';
  if (!name.startsWith(start)) return false;
  let position = start.length;
  for (const part of parts) {
    const found = name.indexOf(part, position);
    if (found < 0) return false;
    position = found + part.length;
  }
  return name.length - end.length >= position && name.endsWith(end);
}
