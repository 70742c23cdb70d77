import type { LocalTrainingOptions } from '../training-options.js';
import { camelNames } from '../wire-names.js';
import type { Filter } from './filters.js';

/** An open round and what it asks of clients. */
export interface RoundRules {
  readonly roundId: string;
  readonly sessionId: string;
  readonly number: number;
  /** `active` while it takes updates. */
  readonly status: string;
  /** Id. */
  readonly model: string;
  readonly modelName: string;
  /** To start from. */
  readonly version: string;
  readonly proximalMu: number;
  /** L2 norm of each tensor; null: not clipped. */
  readonly clipNorm: number | null;
  readonly filters: readonly Filter[];
  readonly secureAggregation: boolean;
  readonly local: LocalTrainingOptions;
  readonly participants: number;
  readonly targetParticipants: number;
}

export function readRoundRules(value: unknown): RoundRules {
  const fields = camelNames(value as Record<string, unknown>);
  const config = camelNames((fields['config'] ?? {}) as Record<string, unknown>);
  const clipNorm = config['clipNorm'];
  const filters = Array.isArray(config['filters']) ? (config['filters'] as unknown[]) : [];
  return {
    roundId: String(fields['roundId']),
    sessionId: String(fields['sessionId'] ?? ''),
    number: Number(fields['number'] ?? 1),
    status: String(fields['status'] ?? ''),
    model: String(config['modelId'] ?? fields['modelId']),
    modelName: String(fields['model'] ?? config['modelId'] ?? ''),
    version: String(config['version'] ?? fields['version'] ?? 'latest'),
    proximalMu: Number(config['proximalMu'] ?? 0),
    clipNorm: typeof clipNorm === 'number' ? clipNorm : null,
    filters: filters.filter(isFilter),
    secureAggregation: config['secureAggregation'] === true,
    local: (config['local'] ?? {}) as LocalTrainingOptions,
    participants: Number(fields['participants'] ?? 0),
    targetParticipants: Number(fields['targetParticipants'] ?? 0),
  };
}

function isFilter(value: unknown): value is Filter {
  return typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string';
}
