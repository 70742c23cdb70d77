import { OctomilClientError } from '../client-error.js';
import type { HttpClient } from '../http-client.js';
import { listOf } from '../training-session.js';
import { wirePath } from '../wire-path.js';
import { type Conversion, type ModelVersion, type OfVersion, readConversion, readVersion } from './model.js';

export interface ReadyOptions extends OfVersion {
  /** Milliseconds between looks. Default 1000. */
  readonly intervalMs?: number;
}

/** Formats that the coordinator makes of a version's file. */
export class Conversions {
  readonly #http: HttpClient;

  constructor(http: HttpClient) {
    this.#http = http;
  }

  /** How each format stands. @throws OctomilClientError `model_not_found`, `version_not_found` */
  async status(options: OfVersion): Promise<Conversion[]> {
    const path = `${versionPath(options)}/conversions`;
    return conversionsOf(await this.#http.json('GET', path, { signal: options.signal }));
  }

  /**
   * Asks for formats; those that failed are tried again.
   *
   * @throws OctomilClientError `model_not_found`, `version_not_found`, `invalid_input` for a format that cannot be made
   * of this version's file
   */
  async request(options: OfVersion & { readonly formats: string | readonly string[] }): Promise<Conversion[]> {
    const { formats, signal } = options;
    const names = typeof formats === 'string' ? formats.split(',').map((name) => name.trim()) : formats;
    const path = `${versionPath(options)}/conversions`;
    return conversionsOf(await this.#http.json('POST', path, { json: { formats: names }, signal }));
  }

  /** Tries a format that failed again. @throws OctomilClientError as `request` */
  retry(options: OfVersion & { readonly format: string }): Promise<Conversion[]> {
    return this.request({ ...options, formats: [options.format] });
  }

  /** Does without a format that failed, or waits. @throws OctomilClientError `not_found`, `wrong_state` once it is made */
  async drop(options: OfVersion & { readonly format: string }): Promise<void> {
    const path = `${versionPath(options)}/conversions${wirePath(options.format)}`;
    await this.#http.json('DELETE', path, { signal: options.signal });
  }

  /**
   * Waits until every format that was asked for exists.
   *
   * @throws OctomilClientError `conversion_failed` naming the formats and why, `version_not_found`, `cancelled`
   */
  async ready(options: ReadyOptions): Promise<ModelVersion> {
    while (true) {
      const answer = await this.#http.json('GET', versionPath(options), { signal: options.signal });
      const version = readVersion(answer);
      if (version.status !== 'converting' && version.status !== 'validating') return version;
      const failed = conversionsOf(answer).filter(({ state }) => state === 'failed');
      if (failed.length > 0) {
        const reasons = failed.map(({ format, reason }) => `${format}: ${reason ?? 'no reason was given'}`).join('; ');
        throw new OctomilClientError(
          'conversion_failed',
          `${options.modelId} ${options.version} could not be converted (${reasons}); retry or drop the format`,
          { details: { formats: failed.map(({ format }) => format) } },
        );
      }
      await this.#http.sleep(options.intervalMs ?? 1000, options.signal);
    }
  }
}

export function versionPath({ modelId, version }: OfVersion): string {
  return wirePath('models', modelId, 'versions', version);
}

function conversionsOf(answer: unknown): Conversion[] {
  return listOf(answer, 'conversions').map(readConversion);
}
