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

function toCamel(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function toSnake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
