import { OctomilError } from '@octomil/shared/errors';
import { checkFormat, type GenerationRequest, type ResponseFormat, type ToolUse } from '../engine/index.js';

const DEFAULT_TEMPERATURE = 0.7;
const DEFAULT_TOP_P = 0.9;

/** What a request says about how to choose tokens, as far as it does. */
export interface GivenSampling {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topP?: number;
  readonly stop?: readonly string[];
  readonly seed?: number;
  readonly responseFormat?: ResponseFormat;
  readonly frequencyPenalty?: number;
  readonly presencePenalty?: number;
  readonly tools?: ToolUse;
}

/**
 * One request to the engine for each choice; with a seed, each choice has the next one.
 *
 * @throws OctomilError `invalid_input` for a format that cannot be held to
 */
export function generationRequests(
  inputs: readonly GenerationRequest['input'][],
  choicesEach: number,
  given: GivenSampling,
): GenerationRequest[] {
  const responseFormat = given.responseFormat ?? { type: 'text' };
  checkFormat(responseFormat);
  const stop = given.stop ?? [];
  if (responseFormat.type !== 'text' && stop.length > 0) {
    throw new OctomilError(
      'invalid_input',
      'stop would cut the JSON that response_format asks for; leave one of them out',
      { details: { field: 'stop' } },
    );
  }
  return inputs.flatMap((input) =>
    Array.from({ length: choicesEach }, (_, choice) => ({
      input,
      maxTokens: given.maxTokens,
      temperature: given.temperature ?? DEFAULT_TEMPERATURE,
      topP: given.topP ?? DEFAULT_TOP_P,
      stop,
      seed: given.seed === undefined ? undefined : given.seed + choice,
      responseFormat,
      frequencyPenalty: given.frequencyPenalty ?? 0,
      presencePenalty: given.presencePenalty ?? 0,
      ...(given.tools === undefined ? {} : { tools: given.tools }),
    })),
  );
}

/** For fields that change what comes back and that the engine does not have: refused rather than ignored. */
export function refuseFields(body: object, fields: readonly string[]): void {
  for (const field of fields) {
    const value = (body as Record<string, unknown>)[field];
    const isNothing =
      value === undefined ||
      value === null ||
      value === false ||
      value === 0 ||
      value === '' ||
      (typeof value === 'object' && Object.keys(value).length === 0);
    if (isNothing) continue;
    throw new OctomilError('invalid_input', `${field} is not supported by this server; leave it out`, {
      details: { field },
    });
  }
}
