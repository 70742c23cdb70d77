import { OctomilError } from '@octomil/shared/errors';

/** What the coordinator may say about routing, by the names of its wire (`GET /route/policy`). */
export interface RoutingPolicy {
  readonly version: number | string;
  readonly fastThreshold: number;
  readonly qualityThreshold: number;
  /** Words that make a query complex in this organization. */
  readonly complexIndicators: readonly string[];
  readonly deterministicEnabled: boolean;
  readonly ttlSeconds: number;
}

/** What holds offline and until a policy says otherwise. */
export const DEFAULT_POLICY: RoutingPolicy = {
  version: 0,
  fastThreshold: 0.3,
  qualityThreshold: 0.7,
  complexIndicators: [],
  deterministicEnabled: true,
  ttlSeconds: 3600,
};

const MAX_INDICATORS = 500;

/** @throws OctomilError `invalid_input` naming the field; unknown fields are ignored */
export function parseRoutingPolicy(value: unknown): RoutingPolicy {
  if (typeof value !== 'object' || value === null) throw wrong('policy', 'an object', value);
  const fields = value as Record<string, unknown>;
  const ratio = (name: string, fallback: number): number => {
    const given = fields[name] ?? fallback;
    if (typeof given !== 'number' || !(given >= 0 && given <= 1)) throw wrong(name, 'a number from 0 to 1', given);
    return given;
  };
  const fastThreshold = ratio('fast_threshold', DEFAULT_POLICY.fastThreshold);
  const qualityThreshold = ratio('quality_threshold', DEFAULT_POLICY.qualityThreshold);
  if (fastThreshold > qualityThreshold) throw wrong('fast_threshold', 'at most quality_threshold', fastThreshold);
  const indicators = fields['complex_indicators'] ?? [];
  if (
    !Array.isArray(indicators) ||
    indicators.length > MAX_INDICATORS ||
    !indicators.every((item) => typeof item === 'string')
  ) {
    throw wrong('complex_indicators', `a list of at most ${MAX_INDICATORS} words`, indicators);
  }
  const version = fields['version'] ?? DEFAULT_POLICY.version;
  const ttl = fields['ttl_seconds'];
  return {
    version: typeof version === 'number' ? version : String(version),
    fastThreshold,
    qualityThreshold,
    complexIndicators: indicators as string[],
    deterministicEnabled: fields['deterministic_enabled'] !== false,
    ttlSeconds: typeof ttl === 'number' && ttl > 0 ? ttl : DEFAULT_POLICY.ttlSeconds,
  };
}

function wrong(field: string, expected: string, value: unknown): OctomilError {
  const shown = JSON.stringify(value)?.slice(0, 100) ?? 'nothing';
  return new OctomilError('invalid_input', `routing policy: ${field} must be ${expected}, not ${shown}`, {
    details: { field },
  });
}
