import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { parseDocument } from 'yaml';
import { TIERS, type Tier } from '../routing/index.js';

/** A model of this machine that can be served. */
export interface ServedModelSource {
  /** A GGUF file. */
  readonly path: string;
  /** For `model: "auto"`. Default: by the place in the list, from small to large. */
  readonly tier?: Tier;
  /** Billions of parameters; decides among models of one tier. */
  readonly paramB?: number;
  /** Default: what it was trained for, 4,096 at most. */
  readonly contextTokens?: number;
  /** Generations at once. Default 4. */
  readonly parallelSequences?: number;
  readonly threads?: number;
  readonly gpu?: boolean;
  /** A small model with the same vocabulary that proposes tokens. */
  readonly draftModelPath?: string;
  /** Resident memory that its process may have, with the pages of its file. Default: no limit. */
  readonly maxMemoryBytes?: number;
}

/** Names, as requests give them, with where the models are; from small to large. */
export type ServedModels = Readonly<Record<string, ServedModelSource>>;

const closed = { additionalProperties: false };
const Path = Type.String({ minLength: 1 });
const Entry = Type.Object(
  {
    path: Path,
    tier: Type.Optional(Type.Union(TIERS.map((tier) => Type.Literal(tier)))),
    params_b: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    context_tokens: Type.Optional(Type.Integer({ minimum: 64 })),
    parallel: Type.Optional(Type.Integer({ minimum: 1, maximum: 256 })),
    threads: Type.Optional(Type.Integer({ minimum: 1, maximum: 1024 })),
    gpu: Type.Optional(Type.Boolean()),
    draft: Type.Optional(Path),
    max_memory_mb: Type.Optional(Type.Integer({ minimum: 64 })),
  },
  closed,
);
const File = Type.Object(
  { models: Type.Record(Type.String(), Type.Union([Path, Entry]), { minProperties: 1 }) },
  closed,
);

/**
 * Reads a file of models. Relative paths start at its folder.
 *
 * ```yaml
 * models:                       # from small to large
 *   smollm-360m: ./smollm-360m.gguf
 *   phi-4-mini:
 *     path: /models/phi-4-mini.gguf
 *     tier: balanced            # fast, balanced or quality; by the place in the list when left out
 *     params_b: 3.8
 *     context_tokens: 8192
 *     parallel: 4
 *     threads: 6
 *     gpu: false
 *     draft: ./phi-draft.gguf   # the same vocabulary
 *     max_memory_mb: 6000
 * ```
 *
 * @throws OctomilError `config_invalid` with every problem of the file, or because it cannot be read
 */
export async function loadModelsFile(path: string): Promise<ServedModels> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new OctomilError('config_invalid', `the models file ${path} cannot be read`, { cause });
  }
  const document = parseDocument(text);
  const [mistake] = document.errors;
  if (mistake !== undefined) throw new OctomilError('config_invalid', `${path}: ${mistake.message}`);
  const given: unknown = document.toJS({ maxAliasCount: 10 });
  const problems = problemsOf(given);
  if (problems.length > 0) throw new OctomilError('config_invalid', `${path}: ${problems.join('; ')}`);
  const { models } = given as Type.Static<typeof File>;
  const at = (file: string): string => resolve(dirname(path), file);
  return Object.fromEntries(
    Object.entries(models).map(([name, entry]) => [
      name,
      typeof entry === 'string' ? { path: at(entry) } : sourceOf(entry, at),
    ]),
  );
}

function problemsOf(given: unknown): string[] {
  if (Value.Check(File, given)) return [];
  const models = (given as { models?: unknown } | null)?.models;
  if (typeof models !== 'object' || models === null || Object.keys(models).length === 0) {
    return ['it must have `models` with at least one name and the path of its file'];
  }
  const others = Object.keys(given as object).filter((key) => key !== 'models');
  const outside = others.map((key) => `${key} is not known here`);
  // One by one: of a union, only its first alternative would be named.
  const inside = Object.entries(models as Record<string, unknown>).flatMap(([name, entry]) => {
    if (typeof entry === 'string') return entry === '' ? [`models.${name} is empty`] : [];
    return [...Value.Errors(Entry, entry)]
      .filter(({ keyword }) => keyword !== 'additionalProperties')
      .map(({ instancePath, message }) => {
        const what = message === 'schema is false' ? 'is not known here' : message;
        return `models.${name}${instancePath.replaceAll('/', '.')} ${what}`;
      });
  });
  return [...outside, ...inside];
}

function sourceOf(entry: Type.Static<typeof Entry>, at: (file: string) => string): ServedModelSource {
  const {
    path,
    tier,
    params_b: paramB,
    context_tokens: contextTokens,
    parallel,
    threads,
    gpu,
    draft,
    max_memory_mb: maxMemory,
  } = entry;
  const given = {
    path: at(path),
    tier,
    paramB,
    contextTokens,
    parallelSequences: parallel,
    threads,
    gpu,
    draftModelPath: draft === undefined ? undefined : at(draft),
    maxMemoryBytes: maxMemory === undefined ? undefined : maxMemory * 1_048_576,
  };
  return Object.fromEntries(
    Object.entries(given).filter(([, value]) => value !== undefined),
  ) as unknown as ServedModelSource;
}
