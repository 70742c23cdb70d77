/** The first level of an object with `snake_case` names in `camelCase`. Deeper levels stay: their keys may be data. */
export function camelNames(value: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [toCamel(name), inner]));
}

/** The first level of an object with `camelCase` names in `snake_case`, without what is undefined. */
export function snakeNames(value: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, inner]) => inner !== undefined)
      .map(([name, inner]) => [toSnake(name), inner]),
  );
}

/** All levels: only for objects whose keys are names of fields throughout. */
export function snakeNamesDeep(value: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(snakeNames(value)).map(([name, inner]) => [
      name,
      isPlainObject(inner) ? snakeNamesDeep(inner) : inner,
    ]),
  );
}

/** All levels; see {@link snakeNamesDeep}. */
export function camelNamesDeep(value: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(camelNames(value)).map(([name, inner]) => [
      name,
      isPlainObject(inner) ? camelNamesDeep(inner) : inner,
    ]),
  );
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function toCamel(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function toSnake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
