import { camelNames, camelNamesDeep, snakeNames, snakeNamesDeep } from '../wire-names.js';

export const ROLLOUT_STATUSES = [
  'draft',
  'active',
  'paused',
  'completed',
  'rolling_back',
  'rolled_back',
  'failed',
] as const;

export type RolloutStatus = (typeof ROLLOUT_STATUSES)[number];

/** A version on its way to the devices of an organization. Percentages are 0 to 100. */
export interface Rollout {
  readonly id: number;
  readonly modelId: string;
  /** Semantic version. */
  readonly version: string;
  readonly versionId: string;
  /** What devices go back to; null for the first rollout of a model. */
  readonly previousVersion: string | null;
  readonly status: RolloutStatus;
  /** Share of the devices that should run the version now. */
  readonly rolloutPercentage: number;
  readonly targetPercentage: number;
  readonly incrementStep: number;
  /** Seconds from stage to stage; null where a person advances. */
  readonly advanceEverySeconds: number | null;
  readonly stage: number;
  /** When the next stage begins by itself; null when it does not. */
  readonly nextStageAt: string | null;
  readonly selector: DeviceSelector;
  readonly health: HealthGates;
  /** Why it is paused, rolled back or failed. */
  readonly reasonCode: string | null;
  readonly reason: string | null;
  /** Present where one rollout is asked for. */
  readonly devices?: RolloutDevices;
  /** What the gates make of it now; present where one rollout is asked for. */
  readonly gate?: { readonly verdict: string; readonly gate: string | null; readonly reason: string | null };
  readonly [field: string]: unknown;
}

export interface RolloutDevices {
  /** Devices that should run the version now. */
  readonly inStage: number;
  readonly active: number;
  readonly pending: number;
  readonly failed: number;
}

/** Which devices a rollout is for; all that is given must hold. */
export interface DeviceSelector {
  readonly labels?: Readonly<Record<string, string>>;
  /** Names or ids. */
  readonly groups?: readonly string[];
  /** Equal, or at least `min`. */
  readonly capabilities?: Readonly<Record<string, string | number | boolean | { readonly min: number }>>;
  /** Device ids. */
  readonly devices?: readonly string[];
}

/** When a rollout stops by itself. A gate that is left out is not looked at. Ratios are 0 to 1. */
export interface HealthGates {
  /** Devices that must have reported before a stage is judged. */
  readonly minDevices?: number;
  /** How long a stage lasts at least. */
  readonly bakeSeconds?: number;
  readonly maxActivationFailureRatio?: number;
  readonly maxInferenceErrorRatio?: number;
  readonly maxLatencyMs?: number;
  /** Against the version before, such as 1.5 for half as slow again. */
  readonly maxLatencyRatio?: number;
  /** Against the version before, on the devices' own held-out rows. */
  readonly maxMetricDrop?: { readonly metric: 'accuracy' | 'auc' | 'loss'; readonly drop: number };
  /** Default `rollback`. */
  readonly onBreach?: 'rollback' | 'pause';
}

export interface RolloutSettings {
  /** Name or id. */
  readonly modelId: string;
  /** A published version. */
  readonly version: string;
  /** Of the first stage, 0 to 100. Default 10. */
  readonly rolloutPercentage?: number;
  /** Where it is completed, up to 100. Default 100. */
  readonly targetPercentage?: number;
  /** What a stage adds. Default 10. */
  readonly incrementStep?: number;
  /** Default: stages advance by hand. */
  readonly advanceEverySeconds?: number;
  /** false leaves a draft, to be started. */
  readonly startImmediately?: boolean;
  readonly selector?: DeviceSelector;
  readonly health?: HealthGates;
  /** For the history. */
  readonly reason?: string;
  readonly signal?: AbortSignal | undefined;
}

/** A device that a rollout has reached, or should. */
export interface AffectedDevice {
  readonly deviceId: string;
  readonly deviceIdentifier: string;
  /** `online` or `offline`. */
  readonly status: string;
  /** How the rollout's version stands there, such as `downloading`, `active` or `failed`; null before it was heard of. */
  readonly state: string | null;
  readonly activeVersion: string | null;
  readonly reasonCode: string | null;
  readonly reason: string | null;
  readonly [field: string]: unknown;
}

/** Who changed a rollout, when, and why. */
export interface RolloutChange {
  readonly fromStatus: RolloutStatus | null;
  readonly toStatus: RolloutStatus;
  readonly fromPercentage: number | null;
  readonly toPercentage: number;
  readonly reasonCode: string | null;
  readonly reason: string | null;
  /** An API key, or `coordinator`. */
  readonly actor: string;
  readonly createdAt: string;
  readonly [field: string]: unknown;
}

/** The body of `POST /models/{id}/rollouts`. Keys of labels and capabilities are data, and stay as they are. */
export function rolloutRequest(settings: RolloutSettings): Record<string, unknown> {
  const { modelId: _model, signal: _signal, health, ...rest } = settings;
  return { ...snakeNames(rest), ...(health === undefined ? {} : { health: snakeNamesDeep(health) }) };
}

export function readRollout(value: unknown): Rollout {
  const fields = camelNames(value as Record<string, unknown>);
  const devices = fields['devices'] as Record<string, unknown> | undefined | null;
  return {
    ...fields,
    id: Number(fields['id']),
    health: camelNamesDeep((fields['health'] ?? {}) as Record<string, unknown>),
    ...(devices === undefined || devices === null ? {} : { devices: camelNames(devices) }),
  } as unknown as Rollout;
}

/** Nothing changes any more, unless somebody makes another rollout. */
export function isFinished({ status }: Rollout): boolean {
  return status === 'completed' || status === 'rolled_back' || status === 'failed';
}
