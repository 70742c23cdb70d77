/**
 * Takes NUL characters out of every text of a received value, names of entries included, in place: PostgreSQL stores none
 * in `text` or `jsonb`. Bytes are left alone.
 */
export function withoutNul<T>(value: T): T {
  return cleaned(value) as T;
}

function cleaned(value: unknown): unknown {
  if (typeof value === 'string') return stripped(value);
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  for (const [name, entry] of Object.entries(value)) {
    const cleanEntry = cleaned(entry);
    const cleanName = stripped(name);
    if (cleanEntry === entry && cleanName === name) continue;
    if (cleanName !== name) Reflect.deleteProperty(value, name);
    // Defined rather than assigned: a name may now be `__proto__`.
    Object.defineProperty(value, cleanName, {
      value: cleanEntry,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return value;
}

function stripped(text: string): string {
  return text.includes('\0') ? text.replaceAll('\0', '') : text;
}
