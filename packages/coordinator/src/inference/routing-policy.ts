import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { sql } from 'kysely';
import { type Static, Type } from 'typebox';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';

const Ratio = Type.Optional(Type.Number({ minimum: 0, maximum: 1 }));
const Words = Type.Integer({ minimum: 0, maximum: 1_000_000 });
/** By the names of the published clients, `indicator_normalizor` included. What is absent gets its default. */
export const PolicyBody = Type.Object({
  thresholds: Type.Optional(
    Type.Object({ fast_max_words: Type.Optional(Words), quality_min_words: Type.Optional(Words) }),
  ),
  complex_indicators: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 100 }), { maxItems: 500 })),
  deterministic_enabled: Type.Optional(Type.Boolean()),
  ttl_seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 604_800 })),
  length_weight: Ratio,
  indicator_weight: Ratio,
  fast_threshold: Ratio,
  quality_threshold: Ratio,
  indicator_normalizor: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 1000 })),
});
export type PolicyInput = Static<typeof PolicyBody>;

const DEFAULTS = {
  thresholds: { fast_max_words: 10, quality_min_words: 50 },
  /** Few and plain: each of them asks for a large model whatever else the query says. */
  complex_indicators: [
    'prove that',
    'derive',
    'refactor',
    'debug',
    'step by step',
    'trade-offs',
    'architecture',
    'algorithm',
    'complexity analysis',
    'root cause',
    'differential diagnosis',
    'formal proof',
  ],
  deterministic_enabled: true,
  ttl_seconds: 3600,
  length_weight: 0.5,
  indicator_weight: 0.5,
  fast_threshold: 0.3,
  quality_threshold: 0.7,
  indicator_normalizor: 3,
};

export interface ServedPolicy {
  readonly body: JsonObject & { readonly ttl_seconds: number };
  /** Quoted. */
  readonly etag: string;
}

/** The policy in force: the organization's own, else the default as version 0. */
export async function readPolicy(database: Database, organizationId: string): Promise<ServedPolicy> {
  const row = await database.kysely
    .selectFrom('routing_policies')
    .select(['version', 'policy'])
    .where('organization_id', '=', organizationId)
    .executeTakeFirst();
  return served(row?.version ?? 0, (row?.policy ?? DEFAULTS) as typeof DEFAULTS);
}

/** Replaces the organization's policy. @throws OctomilError `invalid_input` for limits that cross each other */
export async function writePolicy(
  database: Database,
  organizationId: string,
  input: PolicyInput,
): Promise<ServedPolicy> {
  const policy = { ...DEFAULTS, ...input, thresholds: { ...DEFAULTS.thresholds, ...input.thresholds } };
  inOrder('fast_threshold', policy.fast_threshold, 'quality_threshold', policy.quality_threshold);
  const { fast_max_words: fast, quality_min_words: quality } = policy.thresholds;
  inOrder('thresholds.fast_max_words', fast, 'thresholds.quality_min_words', quality);
  const { version } = await database.kysely
    .insertInto('routing_policies')
    .values({ organization_id: organizationId, policy: JSON.stringify(policy) })
    .onConflict((conflict) =>
      conflict.column('organization_id').doUpdateSet({
        policy: JSON.stringify(policy),
        version: sql<number>`routing_policies.version + 1`,
        updated_at: sql<Date>`now()`,
      }),
    )
    .returning('version')
    .executeTakeFirstOrThrow();
  return served(version, policy);
}

function served(version: number, policy: typeof DEFAULTS): ServedPolicy {
  const body = { version, ...policy };
  const digest = createHash('sha256').update(JSON.stringify(body)).digest('base64url').slice(0, 22);
  return { body, etag: `"${digest}"` };
}

function inOrder(lowName: string, low: number, highName: string, high: number): void {
  if (low <= high) return;
  throw new OctomilError('invalid_input', `${lowName} is ${low}; it must be at most ${highName}, which is ${high}`, {
    details: { field: lowName },
  });
}
