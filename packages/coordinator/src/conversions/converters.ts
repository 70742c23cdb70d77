import { readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { reportProblems } from '@octomil/shared/runtime';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { parse } from 'yaml';

const FORMAT = '^[a-z0-9][a-z0-9._-]{0,39}$';

const ConverterEntry = Type.Object(
  {
    from: Type.String({ pattern: FORMAT }),
    to: Type.String({ pattern: FORMAT }),
    command: Type.Array(Type.String({ minLength: 1 }), { minItems: 1 }),
    timeout_seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 86_400 })),
    max_output_bytes: Type.Optional(Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER })),
  },
  { additionalProperties: false },
);
const ConvertersFile = Type.Object({ converters: Type.Array(ConverterEntry) }, { additionalProperties: false });

/** A program of the operator's that turns one file into another. */
export interface Converter {
  readonly from: string;
  readonly to: string;
  /** Program and arguments; `{input}` and `{output}` in them become paths. No shell sees it. */
  readonly command: readonly string[];
  /** It is killed after so long. Default 10 minutes. */
  readonly timeoutMs: number;
  /** It is killed when it writes more. Default 4 GiB. */
  readonly maxOutputBytes: number;
}

const DEFAULT_TIMEOUT_SECONDS = 600;
const DEFAULT_MAX_OUTPUT_BYTES = 4 * 1024 ** 3;

/**
 * Reads the file that `OCTOMIL_CONVERTERS` names, JSON or YAML: `{ converters: [{ from, to, command, timeout_seconds?,
 * max_output_bytes? }] }`.
 *
 * @throws OctomilError `config_invalid` with every problem at once
 */
export async function readConverters(path: string): Promise<Converter[]> {
  let content: unknown;
  try {
    content = parse(await readFile(path, 'utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new OctomilError('config_invalid', `OCTOMIL_CONVERTERS=${path} cannot be read: ${reason}`, { cause: error });
  }
  return parseConverters(content, path);
}

/** @throws OctomilError `config_invalid` with every problem at once */
export function parseConverters(content: unknown, path: string): Converter[] {
  const problems: string[] = [];
  if (!Value.Check(ConvertersFile, content)) {
    for (const error of Value.Errors(ConvertersFile, content)) {
      problems.push(`OCTOMIL_CONVERTERS=${path}: ${error.instancePath || 'the file'} ${error.message}`);
    }
    reportProblems(problems);
    return [];
  }
  const pairs = new Set<string>();
  for (const { from, to, command } of content.converters) {
    const pair = `${from} → ${to}`;
    if (pairs.has(pair)) problems.push(`OCTOMIL_CONVERTERS=${path}: ${pair} is there twice`);
    pairs.add(pair);
    for (const word of ['{input}', '{output}']) {
      if (command.some((part) => part.includes(word))) continue;
      problems.push(`OCTOMIL_CONVERTERS=${path}: the command of ${pair} has no ${word}, so it would not know its file`);
    }
  }
  reportProblems(problems);
  return content.converters.map(fromEntry);
}

function fromEntry(entry: Static<typeof ConverterEntry>): Converter {
  return {
    from: entry.from,
    to: entry.to,
    command: entry.command,
    timeoutMs: (entry.timeout_seconds ?? DEFAULT_TIMEOUT_SECONDS) * 1000,
    maxOutputBytes: entry.max_output_bytes ?? DEFAULT_MAX_OUTPUT_BYTES,
  };
}
