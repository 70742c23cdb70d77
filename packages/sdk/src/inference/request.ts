import type { ChatMessage, ResponseFormat } from '@octomil/inference/engine';
import { OctomilClientError } from '../client-error.js';
import { snakeNames } from '../wire-names.js';

/** A conversation, or one question: text is a turn of the user, on the device as in the cloud. */
export type GenerationInput = string | readonly ChatMessage[];

export interface GenerationParameters {
  /** Tokens at most. Default: what the server or the model's context allows. */
  readonly maxTokens?: number | undefined;
  /** 0 takes the likeliest token always; at most 2. Default 0.7. */
  readonly temperature?: number | undefined;
  /** Nucleus sampling, above 0 and at most 1. Default 0.9. */
  readonly topP?: number | undefined;
  /** Generation ends before the first of these. */
  readonly stop?: string | readonly string[] | undefined;
  readonly seed?: number | undefined;
  readonly responseFormat?: ResponseFormat | undefined;
}

/** For everything that generates. */
export interface WaitOptions {
  /** Default 120 000; then `request_timeout`. Of a stream: the longest wait for its next piece, keep-alive or not. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface GenerationOptions extends GenerationParameters, WaitOptions {}

/** Checked, and the same for whoever generates. */
export interface GenerationQuery {
  readonly messages: readonly ChatMessage[];
  readonly parameters: GenerationParameters;
}

export const DEFAULT_TIMEOUT_MS = 120_000;

const ROLES = ['system', 'user', 'assistant', 'tool'] as const;

/** @throws OctomilClientError `invalid_input` naming the field */
export function generationQuery(input: GenerationInput, parameters: GenerationParameters): GenerationQuery {
  return { messages: checkedMessages(input), parameters: checkedParameters(parameters) };
}

function checkedMessages(input: GenerationInput): readonly ChatMessage[] {
  if (typeof input === 'string') {
    if (input === '') throw wrong('input', 'some text', input);
    return [{ role: 'user', content: input }];
  }
  if (!Array.isArray(input) || input.length === 0) throw wrong('messages', 'text or at least one message', input);
  for (const [index, message] of (input as readonly (ChatMessage | null)[]).entries()) {
    if (message === null || !ROLES.includes(message?.role)) {
      throw wrong(`messages[${index}].role`, `one of ${ROLES.join(', ')}`, message?.role);
    }
    if (typeof message.content !== 'string') throw wrong(`messages[${index}].content`, 'text', message.content);
  }
  return input as readonly ChatMessage[];
}

function checkedParameters(given: GenerationParameters): GenerationParameters {
  const { maxTokens, temperature, topP, seed, stop, responseFormat } = given;
  const check = (field: string, value: unknown, holds: (value: number) => boolean, expected: string): void => {
    if (value !== undefined && !(typeof value === 'number' && holds(value))) throw wrong(field, expected, value);
  };
  check('maxTokens', maxTokens, (value) => Number.isSafeInteger(value) && value >= 1, 'a whole number of at least 1');
  check('temperature', temperature, (value) => value >= 0 && value <= 2, 'a number from 0 to 2');
  check('topP', topP, (value) => value > 0 && value <= 1, 'a number above 0 and at most 1');
  check('seed', seed, Number.isSafeInteger, 'a whole number');
  const stops = stop === undefined ? undefined : typeof stop === 'string' ? [stop] : stop;
  if (stops !== undefined && !(Array.isArray(stops) && stops.every((one) => typeof one === 'string' && one !== ''))) {
    throw wrong('stop', 'text or a list of texts, none of them empty', stop);
  }
  return { maxTokens, temperature, topP, seed, stop: stops, responseFormat };
}

function wrong(field: string, expected: string, value: unknown): OctomilClientError {
  const shown = JSON.stringify(value)?.slice(0, 80) ?? 'nothing';
  return new OctomilClientError('invalid_input', `${field} must be ${expected}, not ${shown}`, { details: { field } });
}

/** By the names of the wire, OpenAI's and ours alike. */
export function wireParameters({ responseFormat, ...parameters }: GenerationParameters): Record<string, unknown> {
  return {
    ...snakeNames(parameters),
    ...(responseFormat === undefined ? {} : { response_format: wireFormat(responseFormat) }),
  };
}

function wireFormat(format: ResponseFormat): unknown {
  if (format.type !== 'json_schema') return format;
  const { type, name, schema } = format;
  return { type, json_schema: { name, schema, strict: true } };
}
