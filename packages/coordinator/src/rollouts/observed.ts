import type { DeviceModelHealth } from '@octomil/shared/deployment';
import { OctomilError } from '@octomil/shared/errors';
import type { EvaluationMetrics } from '@octomil/shared/training';
import type { DeviceModelState } from '../database/tables.js';

/** What a device says of one model. */
export interface ObservedDeviceModel {
  readonly modelId: string;
  /** What it works towards, or runs; null when it knows of none. */
  readonly versionId: string | null;
  /** The rollout of the desired state it acts on; null when none decided. */
  readonly rolloutId: number | null;
  readonly state: DeviceModelState;
  readonly activeVersionId: string | null;
  readonly previousVersionId: string | null;
  /** Why it failed or waits. */
  readonly problem: { readonly code: string; readonly message: string } | null;
  readonly health: DeviceModelHealth | null;
}

/** Reads one entry of an observed state from outside, whichever way it came. */
export interface RawObservedModel {
  readonly modelId?: unknown;
  readonly versionId?: unknown;
  readonly rolloutId?: unknown;
  readonly state?: unknown;
  readonly activeVersionId?: unknown;
  readonly previousVersionId?: unknown;
  readonly problem?: { readonly code?: unknown; readonly message?: unknown } | null | undefined;
  readonly health?: unknown;
}

/** A device that runs more models than this does not exist. */
export const MAX_OBSERVED_MODELS = 1_000;
const MAX_ID_LENGTH = 64;
const MAX_CODE_LENGTH = 64;
const MAX_MESSAGE_LENGTH = 2_000;
const MAX_COUNT = 2 ** 53 - 1;
/** What is kept of a count: sums over any number of devices stay exact enough, and shares of errors as they were said. */
const MAX_KEPT_COUNT = 1e9;
/** What is kept of a loss, either way. */
const MAX_KEPT_LOSS = 1e12;
const STATES: readonly DeviceModelState[] = ['pending', 'downloading', 'waiting', 'active', 'failed', 'removed'];
/** Of fewer rows nothing is kept: a figure would say more of single ones than of the version. */
const MIN_ROWS = 10;

/** @throws OctomilError `invalid_input` naming the field that is missing or wrong, and the entry it is in */
export function parseObserved(entries: readonly RawObservedModel[]): ObservedDeviceModel[] {
  if (entries.length > MAX_OBSERVED_MODELS) {
    throw new OctomilError(
      'invalid_input',
      `an observed state of ${entries.length} models is more than the ${MAX_OBSERVED_MODELS} that are taken at once`,
    );
  }
  const models = entries.map((entry, index) => parseOne(entry, `models[${index}]`));
  const ids = new Set<string>();
  for (const [index, { modelId }] of models.entries()) {
    if (ids.has(modelId)) throw invalid(`models[${index}].model_id`, modelId, 'named once');
    ids.add(modelId);
  }
  return models;
}

function parseOne(raw: RawObservedModel, where: string): ObservedDeviceModel {
  const modelId = idOf(raw.modelId, `${where}.model_id`);
  if (modelId === null) throw invalid(`${where}.model_id`, raw.modelId, 'the id of a model');
  const state = STATES.find((known) => known === raw.state);
  if (state === undefined) throw invalid(`${where}.state`, raw.state, STATES.join(', '));
  return {
    modelId,
    versionId: idOf(raw.versionId, `${where}.version_id`),
    rolloutId: rolloutIdOf(raw.rolloutId, `${where}.rollout_id`),
    state,
    activeVersionId: idOf(raw.activeVersionId, `${where}.active_version_id`),
    previousVersionId: idOf(raw.previousVersionId, `${where}.previous_version_id`),
    problem: problemOf(raw.problem),
    health: healthOf(raw.health, `${where}.health`),
  };
}

function idOf(value: unknown, field: string): string | null {
  if (value === undefined || value === null || value === '') return null;
  const isId = typeof value === 'string' && value.length <= MAX_ID_LENGTH;
  if (isId && !value.includes('\0') && value.isWellFormed()) return value;
  throw invalid(field, value, `an id of at most ${MAX_ID_LENGTH} characters`);
}

function rolloutIdOf(value: unknown, field: string): number | null {
  if (value === undefined || value === null) return null;
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isSafeInteger(number) || number < 0) {
    throw invalid(field, value, 'the number of a rollout');
  }
  return number === 0 ? null : number;
}

function problemOf(value: RawObservedModel['problem']): ObservedDeviceModel['problem'] {
  if (value === undefined || value === null) return null;
  const { code, message } = value;
  return {
    code: kept(typeof code === 'string' && code !== '' ? code : 'unknown', MAX_CODE_LENGTH),
    message: kept(typeof message === 'string' ? message : '', MAX_MESSAGE_LENGTH),
  };
}

/** What the database can hold: rows of many devices are written together, and one bad text would fail them all. */
function kept(text: string, maxLength: number): string {
  return text.slice(0, maxLength).replaceAll('\0', '').toWellFormed();
}

/** Only what is known is kept, so that no other text of a device reaches a row. */
function healthOf(value: unknown, field: string): DeviceModelHealth | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== 'object' || Array.isArray(value)) throw invalid(field, value, 'an object');
  const given = value as Partial<Record<keyof DeviceModelHealth, unknown>>;
  const inferences = count(given.inferences ?? 0, `${field}.inferences`);
  const inferenceErrors = count(given.inferenceErrors ?? 0, `${field}.inferenceErrors`);
  if (inferenceErrors > inferences) {
    throw invalid(`${field}.inferenceErrors`, inferenceErrors, `at most the ${inferences} inferences`);
  }
  const kept = Math.min(inferences, MAX_KEPT_COUNT);
  return {
    inferences: kept,
    inferenceErrors: inferences > kept ? Math.round((inferenceErrors / inferences) * kept) : inferenceErrors,
    latencyMs: latencyOf(given.latencyMs, `${field}.latencyMs`),
    evaluation: metricsOf(given.evaluation, `${field}.evaluation`),
    baseline: metricsOf(given.baseline, `${field}.baseline`),
  };
}

function latencyOf(value: unknown, field: string): DeviceModelHealth['latencyMs'] {
  if (value === undefined || value === null) return null;
  const { mean, p95 } = value as { mean?: unknown; p95?: unknown };
  return { mean: amount(mean, `${field}.mean`), p95: amount(p95, `${field}.p95`) };
}

function metricsOf(value: unknown, field: string): EvaluationMetrics | null {
  if (value === undefined || value === null) return null;
  const given = value as Partial<Record<keyof EvaluationMetrics, unknown>>;
  const rows = count(given.count, `${field}.count`);
  if (rows < MIN_ROWS) return null;
  const ratio = (name: 'accuracy' | 'auc'): number | null => {
    const figure = given[name];
    if (figure === undefined || figure === null) return null;
    if (typeof figure === 'number' && figure >= 0 && figure <= 1) return figure;
    throw invalid(`${field}.${name}`, figure, 'a number from 0 to 1');
  };
  const { loss } = given;
  if (typeof loss !== 'number' || !Number.isFinite(loss)) throw invalid(`${field}.loss`, loss, 'a finite number');
  const keptLoss = Math.min(Math.max(loss, -MAX_KEPT_LOSS), MAX_KEPT_LOSS);
  return { count: Math.min(rows, MAX_KEPT_COUNT), loss: keptLoss, accuracy: ratio('accuracy'), auc: ratio('auc') };
}

function count(value: unknown, field: string): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= MAX_COUNT) return value;
  throw invalid(field, value, 'a count');
}

function amount(value: unknown, field: string): number {
  if (typeof value === 'number' && value >= 0 && value <= 1e12) return value;
  throw invalid(field, value, 'a number of milliseconds');
}

function invalid(field: string, value: unknown, expected: string): OctomilError {
  const shown = typeof value === 'bigint' ? String(value) : String(JSON.stringify(value)).slice(0, 80);
  return new OctomilError('invalid_input', `${field} is ${shown}; it must be ${expected}`, { details: { field } });
}
