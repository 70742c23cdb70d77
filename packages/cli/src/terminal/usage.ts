import { OctomilError } from '@octomil/shared/errors';
import { InvalidArgumentError } from 'commander';

/** Readers for option values; commander turns what they throw into a usage error that names the option. */

/** @throws InvalidArgumentError */
export function integerFrom(minimum: number, maximum = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(value) || value < minimum || value > maximum) {
      const range = maximum === Number.MAX_SAFE_INTEGER ? `${minimum} or more` : `${minimum} to ${maximum}`;
      throw new InvalidArgumentError(`It must be a whole number, ${range}.`);
    }
    return value;
  };
}

/** @throws InvalidArgumentError */
export function positiveNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value) || value <= 0) {
    throw new InvalidArgumentError('It must be a number above 0.');
  }
  return value;
}

/** @throws InvalidArgumentError */
export function share(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value < 1))
    throw new InvalidArgumentError('It must be 0 or more, below 1.');
  return value;
}

/** @throws InvalidArgumentError */
export function numberFrom(minimum: number, maximum = Number.POSITIVE_INFINITY): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < minimum || value > maximum) {
      const range = maximum === Number.POSITIVE_INFINITY ? `${minimum} or more` : `${minimum} to ${maximum}`;
      throw new InvalidArgumentError(`It must be a number, ${range}.`);
    }
    return value;
  };
}

/** 0 to 1. @throws InvalidArgumentError */
export const ratio: (text: string) => number = numberFrom(0, 1);

/** Collects words, repeated. */
export function collect(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

const METRICS = ['accuracy', 'auc', 'loss'] as const;

/** `auc=0.01`. @throws InvalidArgumentError */
export function metricDrop(text: string): { metric: (typeof METRICS)[number]; drop: number } {
  const [name, value = ''] = text.split('=');
  const metric = METRICS.find((known) => known === name);
  const drop = Number(value);
  if (metric !== undefined && value.trim() !== '' && drop >= 0 && Number.isFinite(drop)) return { metric, drop };
  throw new InvalidArgumentError(`Write it as ${METRICS.join(', ')}, = and a number, such as auc=0.01.`);
}

/** Collects `name=value`, repeated. @throws InvalidArgumentError */
export function pair(text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('Write it as name=value.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

/** `name=value` sets a label, `name-` takes it away. @throws OctomilError `invalid_input` */
export function labelChange(text: string): Record<string, string | null> {
  const at = text.indexOf('=');
  if (at > 0) return { [text.slice(0, at)]: text.slice(at + 1) };
  if (at < 0 && text.length > 1 && text.endsWith('-')) return { [text.slice(0, -1)]: null };
  throw new OctomilError(
    'invalid_input',
    `label ${JSON.stringify(text)} is none; write name=value, or name- to take it away`,
  );
}

/** As `pair`, with several values for a name: `chol=0`, repeated. @throws InvalidArgumentError */
export function marker(
  text: string,
  before: Readonly<Record<string, readonly (string | number)[]>> = {},
): Record<string, readonly (string | number)[]> {
  const [[name, value] = ['', '']] = Object.entries(pair(text));
  return { ...before, [name]: [...(before[name] ?? []), numberOrText(value)] };
}

/** Numbers become numbers and `true` and `false` booleans, as an option of an algorithm wants them. */
export function scalar(text: string): string | number | boolean {
  if (text === 'true' || text === 'false') return text === 'true';
  return numberOrText(text);
}

function numberOrText(text: string): string | number {
  return text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : text;
}
