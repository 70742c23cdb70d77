import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { InferenceBackend } from './backend.js';
import { ollamaBackend } from './ollama-backend.js';
import { openAiBackend } from './openai-backend.js';

export interface GatewayConfig {
  readonly ollamaBaseUrl: string | undefined;
  readonly openAiEndpoint: string | undefined;
  /** A secret. */
  readonly openAiApiKey: string | undefined;
  /** `LLM_BACKEND_TIMEOUT`: a whole answer, or the first and each next text of a stream. */
  readonly timeoutMs: number;
  /** `LLM_MAX_SHARE`: of what may run at once, what one organization may have. */
  readonly maxShareRatio: number;
}

export const DEFAULT_OLLAMA_BASE_URL = 'http://localhost:11434';
const DEFAULT_TIMEOUT_SECONDS = 30;
const MAX_TIMEOUT_SECONDS = 86_400;
const DEFAULT_MAX_SHARE = 0.8;

/**
 * Reads `OLLAMA_BASE_URL` (default `http://localhost:11434`; `none` for no Ollama), `OPENAI_API_ENDPOINT`,
 * `OPENAI_API_KEY`, `LLM_BACKEND_TIMEOUT` (seconds, default 30) and `LLM_MAX_SHARE` (default 0.8).
 *
 * @throws OctomilError `config_invalid` naming the variable
 */
export function gatewayConfigFromEnvironment(environment: Readonly<Record<string, string | undefined>>): GatewayConfig {
  const read = (name: string): string | undefined => (environment[name] === '' ? undefined : environment[name]);
  const seconds = Number(read('LLM_BACKEND_TIMEOUT') ?? DEFAULT_TIMEOUT_SECONDS);
  if (!(seconds > 0 && seconds <= MAX_TIMEOUT_SECONDS)) {
    throw new OctomilError(
      'config_invalid',
      `LLM_BACKEND_TIMEOUT=${environment['LLM_BACKEND_TIMEOUT']} must be seconds, more than 0 and at most ${MAX_TIMEOUT_SECONDS}`,
    );
  }
  const maxShareRatio = Number(read('LLM_MAX_SHARE') ?? DEFAULT_MAX_SHARE);
  if (!(maxShareRatio > 0 && maxShareRatio <= 1)) {
    throw new OctomilError(
      'config_invalid',
      `LLM_MAX_SHARE=${environment['LLM_MAX_SHARE']} must be more than 0 and at most 1`,
    );
  }
  const ollama = read('OLLAMA_BASE_URL') ?? DEFAULT_OLLAMA_BASE_URL;
  return {
    ollamaBaseUrl: ollama === 'none' ? undefined : checkUrl('OLLAMA_BASE_URL', ollama),
    openAiEndpoint: checkUrl('OPENAI_API_ENDPOINT', read('OPENAI_API_ENDPOINT')),
    // A file that holds a key often ends with a line's end, which no header can.
    openAiApiKey: read('OPENAI_API_KEY')?.trim(),
    timeoutMs: seconds * 1000,
    maxShareRatio,
  };
}

/** Ollama first, then the OpenAI-compatible server, as far as they are configured. */
export function backendsOf(config: GatewayConfig, clock: Clock): readonly InferenceBackend[] {
  const { ollamaBaseUrl, openAiEndpoint, openAiApiKey, timeoutMs } = config;
  const timeouts = {
    connectMs: Math.min(timeoutMs, 5_000),
    firstContentMs: timeoutMs,
    idleMs: timeoutMs,
    answerMs: timeoutMs,
  };
  return [
    ...(ollamaBaseUrl === undefined ? [] : [ollamaBackend({ baseUrl: ollamaBaseUrl, timeouts, clock })]),
    ...(openAiEndpoint === undefined
      ? []
      : [openAiBackend({ baseUrl: openAiEndpoint, apiKey: openAiApiKey, timeouts, clock })]),
  ];
}

function checkUrl(name: string, value: string | undefined): string | undefined {
  if (value === undefined) return undefined;
  if (URL.canParse(value) && /^https?:$/.test(new URL(value).protocol)) return value;
  throw new OctomilError('config_invalid', `${name} must be a URL that begins with http:// or https://`);
}
