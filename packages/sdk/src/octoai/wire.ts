export type WireFields = Readonly<Record<string, unknown>>;

export function fields(value: unknown): WireFields {
  return typeof value === 'object' && value !== null ? (value as WireFields) : {};
}

export function text(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

export function count(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}
