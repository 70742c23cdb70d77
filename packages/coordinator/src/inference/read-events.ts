import { INFERENCE_EVENT_TYPES, type InferenceEvent, type InferenceEventMetrics } from '@octomil/inference/quality';
import { OctomilError } from '@octomil/shared/errors';

const MODALITIES = ['text', 'image', 'audio', 'video'] as const;
const MAX_TEXT = 200;
const MAX_MODEL = 1000;
const MAX_FIGURE = 1e12;
/** Of one answer: the sums of an hour, which are kept as whole numbers of 64 bits, take billions of these. */
const MAX_COUNT = 1e9;
export const MAX_EVENTS = 1000;
const FIGURES = {
  ttfc_ms: MAX_FIGURE,
  mean_chunk_latency_ms: MAX_FIGURE,
  total_chunks: MAX_COUNT,
  total_duration_ms: MAX_FIGURE,
  throughput: MAX_FIGURE,
  prompt_tokens: MAX_COUNT,
  completion_tokens: MAX_COUNT,
};

/**
 * Reads one event, or the list `{"events": […]}`. Fields that are not known are left out, as published clients send
 * more of them.
 *
 * @throws OctomilError `invalid_input` naming the field
 */
export function readEvents(body: unknown): InferenceEvent[] {
  const { events } = asObject(body, 'body') as { events?: unknown };
  if (events === undefined) return [readEvent(body, '')];
  if (!Array.isArray(events) || events.length === 0 || events.length > MAX_EVENTS) {
    throw wrong('events', `must be a list of 1 to ${MAX_EVENTS} events`);
  }
  return events.map((event, index) => readEvent(event, `events.${index}.`));
}

function readEvent(value: unknown, at: string): InferenceEvent {
  const fields = asObject(value, at === '' ? 'body' : at.slice(0, -1));
  const text = (name: string, maxCharacters = MAX_TEXT): string | undefined => {
    const given = fields[name] ?? undefined;
    if (given === undefined) return undefined;
    if (typeof given === 'string' && given !== '' && given.length <= maxCharacters) return given;
    throw wrong(`${at}${name}`, `must be a text of 1 to ${maxCharacters} characters`, given);
  };
  const needed = (name: string, maxCharacters?: number): string => {
    const given = text(name, maxCharacters);
    if (given === undefined) throw wrong(`${at}${name}`, 'is missing');
    return given;
  };
  const type = needed('event_type');
  const known = INFERENCE_EVENT_TYPES.find((name) => name === type);
  if (known === undefined) throw wrong(`${at}event_type`, `must be ${INFERENCE_EVENT_TYPES.join(', ')}`, type);
  const modality = text('modality') ?? 'text';
  const knownModality = MODALITIES.find((name) => name === modality);
  if (knownModality === undefined) throw wrong(`${at}modality`, `must be ${MODALITIES.join(', ')}`, modality);
  const timestampMs = fields['timestamp_ms'] ?? undefined;
  if (timestampMs !== undefined && !isFigure(timestampMs, Number.MAX_SAFE_INTEGER)) {
    throw wrong(`${at}timestamp_ms`, 'must be milliseconds since 1970', timestampMs);
  }
  const deviceId = text('device_id');
  const errorCode = text('error_code');
  return {
    event_type: known,
    session_id: needed('session_id'),
    model_id: needed('model_id', MAX_MODEL),
    version: text('version') ?? 'latest',
    modality: knownModality,
    metrics: readMetrics(fields['metrics'], `${at}metrics`),
    ...(deviceId === undefined ? {} : { device_id: deviceId }),
    ...(timestampMs === undefined ? {} : { timestamp_ms: timestampMs }),
    ...(errorCode === undefined ? {} : { error_code: errorCode }),
  };
}

function readMetrics(value: unknown, at: string): InferenceEventMetrics {
  if (value === undefined || value === null) return {};
  const fields = asObject(value, at);
  const figures: Record<string, number | boolean> = {};
  for (const [name, max] of Object.entries(FIGURES)) {
    const given = fields[name] ?? undefined;
    if (given === undefined) continue;
    if (!isFigure(given, max)) throw wrong(`${at}.${name}`, `must be a number from 0 to ${max}`, given);
    figures[name] = given;
  }
  if (fields['usage_estimated'] === true) figures['usage_estimated'] = true;
  return figures;
}

function isFigure(value: unknown, max: number): value is number {
  return typeof value === 'number' && value >= 0 && value <= max;
}

function asObject(value: unknown, field: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw wrong(field, 'must be an object');
}

function wrong(field: string, expected: string, given?: unknown): OctomilError {
  const shown = given === undefined ? '' : `, not ${String(JSON.stringify(given)).slice(0, 60)}`;
  return new OctomilError('invalid_input', `${field} ${expected}${shown}`, { details: { field } });
}
