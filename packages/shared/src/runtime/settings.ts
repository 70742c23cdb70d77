import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { OctomilError } from '../errors/index.js';

/** One setting: its environment variable, how its text becomes a value, and what holds without it. */
export interface Setting<T> {
  readonly env: string;
  /** Shown in messages and in `describeSettings`. */
  readonly help: string;
  readonly secret: boolean;
  /** @throws with a message that completes "NAME=value …" */
  readonly parse: (text: string) => T;
  readonly fallback: T;
}

type Values<D extends Readonly<Record<string, Setting<unknown>>>> = {
  readonly [K in keyof D]: D[K] extends Setting<infer T> ? T : never;
};

export function textSetting<T extends string | undefined>(
  env: string,
  fallback: T,
  help: string,
  options: { secret?: boolean } = {},
): Setting<string | T> {
  return { env, help, fallback, secret: options.secret ?? false, parse: (text) => text };
}

export function integerSetting(
  env: string,
  fallback: number,
  help: string,
  limits: { min: number; max: number },
): Setting<number> {
  return {
    env,
    help,
    fallback,
    secret: false,
    parse: (text) => {
      const value = Number(text);
      if (!/^-?\d+$/.test(text) || value < limits.min || value > limits.max) {
        throw new OctomilError('config_invalid', `must be a whole number from ${limits.min} to ${limits.max}`);
      }
      return value;
    },
  };
}

/** `1`, `true`, `yes`, `on` and their opposites. */
export function flagSetting(env: string, help: string): Setting<boolean> {
  return {
    env,
    help,
    fallback: false,
    secret: false,
    parse: (text) => {
      if (/^(1|true|yes|on)$/i.test(text)) return true;
      if (/^(0|false|no|off)$/i.test(text)) return false;
      throw new OctomilError('config_invalid', 'must be 1 or 0');
    },
  };
}

export function choiceSetting<T extends string>(
  env: string,
  fallback: T,
  choices: readonly T[],
  help: string,
): Setting<T> {
  return {
    env,
    help,
    fallback,
    secret: false,
    parse: (text) => {
      const found = choices.find((choice) => choice === text);
      if (found === undefined) throw new OctomilError('config_invalid', `must be one of ${choices.join(', ')}`);
      return found;
    },
  };
}

/**
 * Reads settings: the environment first, then a file, then defaults. Empty variables count as unset.
 * Names in the file (YAML or JSON, one level) are those of the variables, or the same in lower case without `octomil_`.
 *
 * @param file path of the file; none when undefined
 * @throws OctomilError `config_invalid` with every problem at once, never the value of a secret
 */
export function readSettings<const D extends Readonly<Record<string, Setting<unknown>>>>(
  definitions: D,
  env: Readonly<Record<string, string | undefined>>,
  file?: string,
): Values<D> {
  const problems: string[] = [];
  const fromFile = file === undefined ? {} : readFile(file, definitions, problems);
  const values: Record<string, unknown> = {};
  for (const [key, setting] of Object.entries(definitions)) {
    const given = env[setting.env];
    const text = given === undefined || given === '' ? fromFile[setting.env] : given;
    if (text === undefined) {
      values[key] = setting.fallback;
      continue;
    }
    try {
      values[key] = setting.parse(text);
    } catch (error) {
      const shown = setting.secret ? '' : `=${text}`;
      const reason = error instanceof OctomilError ? error.reason : String(error);
      problems.push(`${setting.env}${shown} ${reason} (${setting.help})`);
    }
  }
  reportProblems(problems);
  return Object.freeze(values) as Values<D>;
}

/** @throws OctomilError `config_invalid` when there are any */
export function reportProblems(problems: readonly string[]): void {
  if (problems.length === 0) return;
  const noun = problems.length === 1 ? 'one setting is wrong' : `${problems.length} settings are wrong`;
  throw new OctomilError('config_invalid', `${noun}: ${problems.join('; ')}`, { details: { problems } });
}

/** Lines `NAME=value`, secrets hidden: what `octomil config` prints. */
export function describeSettings(
  definitions: Readonly<Record<string, Setting<unknown>>>,
  values: Readonly<Record<string, unknown>>,
): string[] {
  return Object.entries(definitions).map(([key, setting]) => {
    const value = values[key];
    if (value === undefined) return `${setting.env}=`;
    return `${setting.env}=${setting.secret ? '[redacted]' : String(value)}`;
  });
}

function readFile(
  path: string,
  definitions: Readonly<Record<string, Setting<unknown>>>,
  problems: string[],
): Record<string, string> {
  let document: unknown;
  try {
    document = parse(readFileSync(path, 'utf8'));
  } catch (error) {
    problems.push(`the configuration file ${path} cannot be read: ${error instanceof Error ? error.message : error}`);
    return {};
  }
  if (document === null || document === undefined) return {};
  if (typeof document !== 'object' || Array.isArray(document)) {
    problems.push(`the configuration file ${path} must be a list of names and values`);
    return {};
  }
  const names = new Map<string, string>();
  for (const { env } of Object.values(definitions)) {
    names.set(env, env);
    names.set(env.toLowerCase().replace(/^octomil_/, ''), env);
  }
  const found: Record<string, string> = {};
  for (const [name, value] of Object.entries(document)) {
    const env = names.get(name);
    if (env === undefined) problems.push(`${path}: ${name} is no setting; known are ${[...names.values()].join(', ')}`);
    else if (typeof value === 'object') problems.push(`${path}: ${name} must be one value`);
    else found[env] = String(value);
  }
  return found;
}
