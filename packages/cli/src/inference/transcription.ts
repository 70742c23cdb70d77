import { openAsBlob } from 'node:fs';
import { basename } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { runForText } from './program-output.js';

export interface TranscriptionOptions {
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Of the server. */
  readonly model: string;
  /** What is spoken, such as `en`; undefined: whoever listens finds out. */
  readonly language: string | undefined;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

export interface Transcript {
  readonly text: string;
  /** Who listened. */
  readonly provider: 'command' | 'openai';
}

/**
 * By the program in `OCTOMIL_TRANSCRIBE_COMMAND`, a JSON array with `{input}` (and maybe `{language}`, `{model}`) that is run
 * without a shell; else by the OpenAI-compatible server at `OPENAI_API_ENDPOINT` (`POST …/audio/transcriptions`).
 *
 * @throws OctomilError `config_invalid` without either; `inference_failed`, `network_unavailable`, `request_timeout`,
 * `authentication_failed`, `model_not_found`, `too_large`, `rate_limited`, `invalid_input`, `cancelled`
 */
export async function transcribeFile(path: string, options: TranscriptionOptions): Promise<Transcript> {
  const { OCTOMIL_TRANSCRIBE_COMMAND: command, OPENAI_API_ENDPOINT: endpoint } = options.environment;
  if (command) {
    const text = await runForText(programOf(command, path, options), options);
    return { text: text.trim(), provider: 'command' };
  }
  if (endpoint) return { text: (await askServer(endpoint, path, options)).trim(), provider: 'openai' };
  throw new OctomilError(
    'config_invalid',
    'nothing is configured that transcribes: set OPENAI_API_ENDPOINT (and OPENAI_API_KEY) to an OpenAI-compatible server, ' +
      'or OCTOMIL_TRANSCRIBE_COMMAND to a program, such as ["whisper-cli","-nt","-f","{input}"]',
  );
}

function programOf(command: string, path: string, { language, model }: TranscriptionOptions): readonly string[] {
  let words: unknown;
  try {
    words = JSON.parse(command);
  } catch {
    words = undefined;
  }
  const isList = Array.isArray(words) && words.length > 0 && words.every((word) => typeof word === 'string');
  if (!isList || !(words as string[]).some((word, index) => index > 0 && word.includes('{input}'))) {
    throw new OctomilError(
      'config_invalid',
      'OCTOMIL_TRANSCRIBE_COMMAND must be a JSON array of texts, the program first and {input} for the file after it, ' +
        'such as ["whisper-cli","-nt","-f","{input}"]',
    );
  }
  const values: Readonly<Record<string, string>> = { input: path, language: language ?? 'auto', model };
  return (words as string[]).map((word, index) =>
    index === 0 ? word : word.replace(/\{(input|language|model)\}/g, (_, name: string) => values[name] ?? ''),
  );
}

async function askServer(endpoint: string, path: string, options: TranscriptionOptions): Promise<string> {
  const url = transcriptionsUrl(endpoint);
  const apiKey = options.environment['OPENAI_API_KEY'];
  const form = new FormData();
  form.set('file', await openAsBlob(path), basename(path));
  form.set('model', options.model);
  form.set('response_format', 'json');
  if (options.language !== undefined) form.set('language', options.language);
  const timeout = AbortSignal.timeout(options.timeoutMs);
  try {
    const response = await fetch(url, {
      method: 'POST',
      body: form,
      headers: apiKey ? { authorization: `Bearer ${apiKey}` } : {},
      // The key is for this server.
      redirect: 'error',
      signal: AbortSignal.any([options.signal, timeout]),
    });
    const body = await response.text();
    if (!response.ok) throw refusal(response.status, body, url);
    const text = textIn(body);
    if (text === undefined) throw new OctomilError('inference_failed', `${url} answered without a text`);
    return text;
  } catch (cause) {
    if (cause instanceof OctomilError) throw cause;
    if (options.signal.aborted) throw new OctomilError('cancelled', 'the transcription was cancelled', { cause });
    if (timeout.aborted) {
      throw new OctomilError('request_timeout', `${url} did not answer within ${options.timeoutMs / 1_000} s`, {
        cause,
      });
    }
    throw new OctomilError('network_unavailable', `${url} cannot be reached`, { cause });
  }
}

/** An address without a path is one of `/v1`. */
function transcriptionsUrl(endpoint: string): string {
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol)) {
    throw new OctomilError('config_invalid', 'OPENAI_API_ENDPOINT must be a URL that begins with http:// or https://');
  }
  const url = new URL(endpoint);
  const path = url.pathname === '/' ? '/v1' : url.pathname.replace(/\/+$/, '');
  return `${url.origin}${path}/audio/transcriptions`;
}

const REFUSALS: Readonly<Record<number, 'authentication_failed' | 'model_not_found' | 'too_large' | 'rate_limited'>> = {
  401: 'authentication_failed',
  403: 'authentication_failed',
  404: 'model_not_found',
  413: 'too_large',
  429: 'rate_limited',
};

function refusal(status: number, body: string, url: string): OctomilError {
  const code = REFUSALS[status] ?? (status >= 400 && status < 500 ? 'invalid_input' : 'inference_failed');
  const said = (fieldsOf(fieldsOf(body)['error'])['message'] ?? fieldsOf(body)['message'] ?? body) as unknown;
  const reason = typeof said === 'string' && said.trim() !== '' ? `: ${said.trim().slice(0, 300)}` : '';
  return new OctomilError(code, `${url} answered ${status}${reason}`);
}

function textIn(body: string): string | undefined {
  const { text } = fieldsOf(body);
  return typeof text === 'string' ? text : undefined;
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  let read = value;
  try {
    if (typeof value === 'string') read = JSON.parse(value);
  } catch {
    return {};
  }
  return typeof read === 'object' && read !== null ? (read as Record<string, unknown>) : {};
}
