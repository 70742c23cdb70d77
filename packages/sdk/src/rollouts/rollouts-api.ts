import type { ClientOptions } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import { listOf } from '../training-session.js';
import { camelNames } from '../wire-names.js';
import { wirePath } from '../wire-path.js';
import {
  type AffectedDevice,
  isFinished,
  type Rollout,
  type RolloutChange,
  type RolloutSettings,
  type RolloutStatus,
  readRollout,
  rolloutRequest,
} from './rollout.js';

/** Which model's rollouts. */
export interface OfModel {
  /** Name or id. */
  readonly modelId: string;
  readonly signal?: AbortSignal | undefined;
}

/** Which rollout. */
export interface OfRollout extends OfModel {
  readonly rolloutId: number;
}

export interface AffectedDevicesPage {
  readonly devices: readonly AffectedDevice[];
  /** Gives the next page; null on the last one. */
  readonly nextCursor: string | null;
  readonly [field: string]: unknown;
}

export interface RolloutWatchOptions extends OfRollout {
  /** Milliseconds between looks. Default 2000. */
  readonly intervalMs?: number;
}

/**
 * Staged delivery of versions to devices.
 *
 * ```ts
 * const rollout = await registry.rollouts.create({ modelId: 'triage', version: '2.0.0', startImmediately: true });
 * for await (const { rolloutPercentage } of registry.rollouts.watch({ modelId: 'triage', rolloutId: rollout.id })) …
 * ```
 */
export class RolloutsApi {
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions | HttpClient = {}) {
    this.#http = HttpClient.of(options);
  }

  /**
   * A draft, unless `startImmediately`.
   *
   * @throws OctomilClientError `model_not_found`, `version_not_found`, `invalid_input` for percentages that do not fit
   * together, `wrong_state` for a version that is not published, `conflict` while another rollout of the model is under way
   */
  async create(settings: RolloutSettings): Promise<Rollout> {
    const json = rolloutRequest({ startImmediately: false, ...settings });
    return readRollout(await this.#http.json('POST', rolloutsPath(settings), { json, signal: settings.signal }));
  }

  /** Newest first, at most 100 unless `limit` says otherwise. @throws OctomilClientError `model_not_found` */
  async list(
    options: OfModel & { readonly statusFilter?: RolloutStatus; readonly limit?: number; readonly offset?: number },
  ): Promise<Rollout[]> {
    const { statusFilter, limit, offset } = options;
    const query = { status_filter: statusFilter, limit, offset };
    const answer = await this.#http.json('GET', rolloutsPath(options), { query, signal: options.signal });
    return listOf(answer, 'rollouts').map(readRollout);
  }

  /** Those that advance now: at most one today. @throws OctomilClientError `model_not_found` */
  async active(options: OfModel): Promise<Rollout[]> {
    const answer = await this.#http.json('GET', `${rolloutsPath(options)}/active`, { signal: options.signal });
    return listOf(answer, 'rollouts').map(readRollout);
  }

  /** With the count of its devices. @throws OctomilClientError `model_not_found`, `not_found` */
  async get(options: OfRollout): Promise<Rollout> {
    return readRollout(await this.#http.json('GET', rolloutPath(options), { signal: options.signal }));
  }

  /** Starts a draft. @throws OctomilClientError `not_found`, `wrong_state`, `conflict` while another is under way */
  start(options: OfRollout): Promise<Rollout> {
    return this.#act('start', options);
  }

  /**
   * To the next stage, before its time.
   *
   * @param options `customIncrement`: percentage to add in place of the rollout's own step
   * @throws OctomilClientError `not_found`, `wrong_state` unless it is active, `gate_breached` where its gates say stop
   */
  advance(options: OfRollout & { readonly customIncrement?: number }): Promise<Rollout> {
    const { customIncrement } = options;
    return this.#act('advance', options, customIncrement === undefined ? {} : { custom_increment: customIncrement });
  }

  /** Devices keep what they have. @throws OctomilClientError `not_found`, `wrong_state` unless it is active */
  pause(options: OfRollout & { readonly reason?: string }): Promise<Rollout> {
    return this.#act('pause', options, reasonOf(options));
  }

  /** @throws OctomilClientError `not_found`, `wrong_state` unless it is paused */
  resume(options: OfRollout & { readonly reason?: string }): Promise<Rollout> {
    return this.#act('resume', options, reasonOf(options));
  }

  /**
   * Straight to a percentage, upwards only.
   *
   * @throws OctomilClientError `not_found`, `wrong_state`, `invalid_input` for a percentage below today's or above the target
   */
  updatePercentage(options: OfRollout & { readonly percentage: number; readonly reason?: string }): Promise<Rollout> {
    return this.#act('update-percentage', options, { percentage: options.percentage, ...reasonOf(options) });
  }

  /** Devices return to the version before, which they have kept. @throws OctomilClientError `not_found`, `wrong_state` */
  rollback(options: OfRollout & { readonly reason?: string }): Promise<Rollout> {
    return this.#act('rollback', options, reasonOf(options));
  }

  /**
   * One page of the devices in the present stage.
   *
   * @param options `limit`: devices per page, default 100, at most 1,000; `cursor`: `nextCursor` of the page before
   * @throws OctomilClientError `not_found`
   */
  async getAffectedDevices(
    options: OfRollout & { readonly limit?: number; readonly cursor?: string },
  ): Promise<AffectedDevicesPage> {
    const { limit, cursor, signal } = options;
    const path = `${rolloutPath(options)}/affected-devices`;
    const answer = await this.#http.json<Record<string, unknown>>('GET', path, {
      query: { limit, cursor },
      signal,
    });
    const fields = camelNames(answer);
    return {
      ...fields,
      devices: listOf(answer, 'devices').map((device) => {
        const row = camelNames(device as Record<string, unknown>);
        return { ...row, deviceId: String(row['deviceId'] ?? row['id']) } as AffectedDevice;
      }),
      nextCursor: typeof fields['nextCursor'] === 'string' ? fields['nextCursor'] : null,
    };
  }

  /** All devices in the present stage, a page at a time. @throws OctomilClientError `not_found` */
  async *affectedDevices(
    options: OfRollout & { readonly pageSize?: number },
  ): AsyncGenerator<AffectedDevice, void, undefined> {
    const { pageSize, ...rest } = options;
    let cursor: string | null = null;
    do {
      const page: AffectedDevicesPage = await this.getAffectedDevices({
        ...rest,
        ...(pageSize === undefined ? {} : { limit: pageSize }),
        ...(cursor === null ? {} : { cursor }),
      });
      yield* page.devices;
      cursor = page.nextCursor;
    } while (cursor !== null);
  }

  /** Every change, oldest first. @throws OctomilClientError `not_found` */
  async getStatusHistory(options: OfRollout): Promise<RolloutChange[]> {
    const path = `${rolloutPath(options)}/status-history`;
    const answer = await this.#http.json('GET', path, { signal: options.signal });
    return listOf(answer, 'history').map(
      (row) => camelNames(row as Record<string, unknown>) as unknown as RolloutChange,
    );
  }

  /** @param options `force`: also one that is in force, which is rolled back first @throws OctomilClientError `not_found`, `wrong_state` */
  async delete(options: OfRollout & { readonly force?: boolean }): Promise<void> {
    const query = { force: options.force };
    await this.#http.json('DELETE', rolloutPath(options), { query, signal: options.signal });
  }

  /**
   * The rollout as it is, and again whenever it changed, until it is completed, rolled back or failed.
   *
   * @throws OctomilClientError `not_found`, `cancelled` by the signal
   */
  async *watch(options: RolloutWatchOptions): AsyncGenerator<Rollout, void, undefined> {
    let seen = '';
    while (true) {
      const rollout = await this.get(options);
      const now = JSON.stringify(rollout);
      if (now !== seen) yield rollout;
      if (isFinished(rollout)) return;
      seen = now;
      await this.#http.sleep(options.intervalMs ?? 2000, options.signal);
    }
  }

  async #act(action: string, options: OfRollout, json: object = {}): Promise<Rollout> {
    const path = `${rolloutPath(options)}/${action}`;
    return readRollout(await this.#http.json('POST', path, { json, signal: options.signal }));
  }
}

function reasonOf({ reason }: { readonly reason?: string }): { reason?: string } {
  return reason === undefined ? {} : { reason };
}

function rolloutsPath({ modelId }: OfModel): string {
  return `${wirePath('models', modelId)}/rollouts`;
}

function rolloutPath(options: OfRollout): string {
  return `${rolloutsPath(options)}${wirePath(options.rolloutId)}`;
}
