import type { NamedTensor } from '@octomil/shared/tensors';
import { OctomilClientError } from '../client-error.js';
import type { ClientOptions } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import { pullBytes } from '../models/pull.js';
import { RolloutsApi } from '../rollouts/rollouts-api.js';
import { camelNames, snakeNames } from '../wire-names.js';
import { wirePath } from '../wire-path.js';
import { clientError } from './client-failure.js';
import type { TrainingData } from './data.js';
import { applyFilters, deltaOf, type Filter, proximal } from './filters.js';
import { encoded, type LocalRoom, localRoom, tensorsOf } from './local-room.js';
import type {
  ClientUpdateResult,
  JoinRoundOptions,
  PersonalModel,
  RemoteTrainOptions,
  TrainDataOptions,
} from './options.js';
import { type RoundRules, readRoundRules } from './round-rules.js';
import { sendUpdate, type Update } from './send-update.js';
import { runTrainFunction } from './train-function.js';
import { isWeights, stateDict } from './weights.js';

export interface FederatedClientOptions extends ClientOptions {
  /** Names this device within its organization; the same name is the same device. */
  readonly deviceIdentifier: string;
  /** The device's id, where it is known: nothing is registered then, as for a token that may not. */
  readonly deviceId?: string;
  /** Largest download of training data, in bytes; more is refused. Default 4 GiB. */
  readonly maxDownloadBytes?: number;
}

export interface RegisterOptions {
  /** Columns of the data, for whoever looks at the device. */
  readonly featureSchema?: readonly string[];
  /** Sent besides what is known of this machine. */
  readonly metadata?: Readonly<Record<string, unknown>>;
  readonly signal?: AbortSignal;
}

const DEFAULT_MAX_DOWNLOAD_BYTES = 4 * 2 ** 30;
/**
 * A device or worker that trains by itself and uploads what it learned. Data stay here; weights travel.
 *
 * ```ts
 * const client = new FederatedClient({ apiKey: 'edg_…', deviceIdentifier: 'hospital-001' });
 * await client.register();
 * await client.train({ model: 'cancer-detection', data: '/data/patients.csv', targetCol: 'diagnosis' });
 * ```
 *
 * Tables are trained on in Node only. Every method throws OctomilClientError and nothing else.
 */
export class FederatedClient {
  readonly deviceIdentifier: string;
  /** Rollouts of the organization's models. */
  readonly rollouts: RolloutsApi;
  readonly #http: HttpClient;
  readonly #options: FederatedClientOptions;
  #deviceId: Promise<string> | undefined;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` or device name */
  constructor(options: FederatedClientOptions) {
    if (typeof options.deviceIdentifier !== 'string' || options.deviceIdentifier.trim() === '') {
      throw new OctomilClientError(
        'invalid_input',
        'deviceIdentifier is missing: name this device, such as "hospital-001"',
      );
    }
    this.deviceIdentifier = options.deviceIdentifier;
    this.#options = options;
    this.#http = new HttpClient(options);
    this.#deviceId = options.deviceId === undefined ? undefined : Promise.resolve(options.deviceId);
    this.rollouts = new RolloutsApi(this.#http);
  }

  /**
   * Registers this device, or brings up to date what is known of it. Everything else does so by itself when needed.
   *
   * @throws OctomilClientError `forbidden` for a key that may not, `device_revoked`
   */
  async register(options: RegisterOptions = {}): Promise<Readonly<Record<string, unknown>> & { deviceId: string }> {
    const room = await localRoom().catch(() => undefined);
    const json = {
      device_identifier: this.deviceIdentifier,
      ...(this.#http.orgId === undefined ? {} : { org_id: this.#http.orgId }),
      ...room?.machineFacts(),
      ...snakeNames({ featureSchema: options.featureSchema, metadata: options.metadata }),
    };
    const answer = await this.#http.json<Record<string, unknown>>('POST', '/devices/register', {
      json,
      signal: options.signal,
    });
    const deviceId = String(answer['device_id'] ?? answer['id']);
    this.#deviceId = Promise.resolve(deviceId);
    return { ...camelNames(answer), deviceId };
  }

  /**
   * Trains here on a table, or takes weights that were trained already, and uploads the result.
   *
   * A table is encoded as the version's feature spec says, the same as at every other site. A model without any version
   * gets its first one: from what this table says of its columns (sums and counts, nothing about fewer than ten rows),
   * with `architecture`. Whoever comes after it follows its columns.
   *
   * @throws OctomilClientError `model_not_found`, `version_not_found`; `data_unreadable`, `data_mismatch`, `too_few_rows`
   * for the table; `update_rejected` for weights that do not fit the model; `too_large`, `cancelled`
   */
  async train(options: TrainDataOptions): Promise<ClientUpdateResult> {
    const { data, signal } = options;
    return guarded(signal, async () => {
      if (isWeights(data)) {
        requireTable(options);
        const version = await this.#version(options.model, options.version, signal);
        const sampleCount = options.sampleCount ?? 0;
        const { model, metrics = {}, updateFormat = 'weights' } = options;
        return this.#upload({ model, version, bytes: await encoded(data), sampleCount, metrics, updateFormat, signal });
      }
      return this.#trainOnTable(data, options);
    });
  }

  /**
   * Pulls the model, lets `localTrainFn` train it, uploads, as often as `rounds` says. While no new version is published,
   * a round goes on from the weights of the one before it, and its update takes that one's place.
   *
   * @returns one result for each round
   * @throws OctomilClientError `model_not_found`, `version_not_found`, `update_rejected`, `cancelled`; `training_failed`
   * with the cause for whatever `localTrainFn` throws
   */
  async trainFromRemote(options: RemoteTrainOptions): Promise<ClientUpdateResult[]> {
    const { model, localTrainFn, rounds = 1, updateFormat = 'weights', signal } = options;
    return guarded(signal, async () => {
      requireRounds(rounds);
      const results: ClientUpdateResult[] = [];
      let before: { version: string; base: readonly NamedTensor[]; trained: readonly NamedTensor[] } | undefined;
      for (let round = 1; round <= rounds; round++) {
        const version = await this.#version(model, options.version, signal);
        const goesOn = before?.version === version ? before : undefined;
        const base = goesOn?.base ?? (await this.#base(model, version, signal));
        const told = { round, version, roundId: undefined, proximalMu: 0, signal };
        const {
          weights,
          sampleCount,
          metrics = {},
        } = await runTrainFunction(localTrainFn, goesOn?.trained ?? base, told);
        const trained = await tensorsOf(weights);
        before = { version, base, trained };
        const bytes = await encoded(updateFormat === 'delta' ? stateDict(deltaOf(base, trained)) : weights);
        results.push(await this.#upload({ model, version, bytes, sampleCount, metrics, updateFormat, signal }));
      }
      return results;
    });
  }

  /**
   * The bytes of a version's file, checked against their digest.
   *
   * @throws OctomilClientError `model_not_found`, `version_not_found`, `format_not_ready`, `checksum_mismatch`
   */
  async pullModel(options: {
    readonly model: string;
    /** Default: the latest published one. */
    readonly version?: string;
    /** Such as `pytorch` or `onnx`. Default: the weights, or whatever file was uploaded. */
    readonly format?: string;
    readonly signal?: AbortSignal;
  }): Promise<Uint8Array<ArrayBuffer>> {
    return (await pullBytes(this.#http, options)).bytes;
  }

  /**
   * The model of this device's own that training with `personalization` keeps in a folder, or an agent in `personal` of its
   * state folder. Where only some layers are its own, the rest is of a version.
   *
   * @throws OctomilClientError `not_found` where none of that name is kept, `corrupt_file`, `data_mismatch` for a version
   * with another architecture, `version_not_found`
   */
  async personalModel(options: {
    readonly folder: string;
    /** Name. */
    readonly model: string;
    /** Default: the latest published one. Ditto's model needs none. */
    readonly version?: string;
    readonly signal?: AbortSignal;
  }): Promise<PersonalModel> {
    const { folder, signal, ...asked } = options;
    return guarded(signal, async () => {
      const weights = () => pullBytes(this.#http, { ...asked, format: 'safetensors', signal });
      return (await localRoom()).readPersonalModel(folder, options.model, async () => (await weights()).bytes);
    });
  }

  /** Open rounds that this device has not answered, oldest first. */
  async activeRounds(signal?: AbortSignal): Promise<RoundRules[]> {
    const query = { device_id: await this.#device(signal), status: 'active' };
    const answer = await this.#http.json<{ rounds: unknown[] }>('GET', '/training/rounds', { query, signal });
    return answer.rounds.map(readRoundRules);
  }

  /**
   * Takes part in a round of an open session. What was learned is sent as the change since the round's base; before it
   * leaves, in this order: ÷ (1 + μ) where the round has a `proximal_mu` and `localTrainFn` trained (on a table the
   * proximal term is in the loss), gradients clipped to `clip_norm`, the round's filters, the caller's own.
   *
   * @throws OctomilClientError `assignment_not_found` when no round is open, `wrong_state` for one that is over;
   * `training_not_supported` for a round with secure aggregation; as `train`
   */
  async joinRound(options: JoinRoundOptions): Promise<ClientUpdateResult> {
    const { signal } = options;
    return guarded(signal, async () => {
      if ((options.localTrainFn === undefined) === (options.data === undefined)) {
        throw new OctomilClientError('invalid_input', 'joinRound needs either localTrainFn or data, and not both');
      }
      if (options.localTrainFn !== undefined) requireTable(options);
      await this.#device(signal);
      const round = await this.#round(options.roundId, signal);
      requireJoinable(round);
      const { model, version, proximalMu } = round;
      if (options.localTrainFn === undefined) return this.#joinWithTable(round, options);
      requireTable(options);
      const base = await this.#base(model, version, signal);
      const told = { round: round.number, version, roundId: round.roundId, proximalMu, signal };
      const { weights, sampleCount, metrics = {} } = await runTrainFunction(options.localTrainFn, base, told);
      const delta = proximal(deltaOf(base, await tensorsOf(weights)), proximalMu);
      return this.#uploadFiltered(round, delta, options, { sampleCount, metrics });
    });
  }

  async #joinWithTable(round: RoundRules, options: JoinRoundOptions): Promise<ClientUpdateResult> {
    const { data, targetCol, onProgress, signal } = options;
    const { model, version } = round;
    const room = await localRoom();
    return room.withFolder(async (folder) => {
      const trained = await room.withData(data ?? [], this.#reading(folder, signal), async (source) =>
        room.trainOnTable({
          base: await this.#baseFiles(model, version, signal),
          modelName: round.modelName,
          local: { ...round.local, proximalMu: round.proximalMu },
          rounds: 1,
          updateFormat: 'delta',
          ...{ source, targetCol, folder, onProgress, signal },
          personal: personalRequest(options, round.sessionId, round.number),
        }),
      );
      return this.#uploadFiltered(round, await room.readUpdate(trained.path), options, trained);
    });
  }

  #uploadFiltered(
    round: RoundRules,
    delta: readonly NamedTensor[],
    { filters: own = [], signal }: Pick<JoinRoundOptions, 'filters' | 'signal'>,
    learned: { readonly sampleCount: number; readonly metrics: Readonly<Record<string, unknown>> },
  ): Promise<ClientUpdateResult> {
    const { model, version, roundId, clipNorm } = round;
    const clip: Filter[] = clipNorm === null ? [] : [{ type: 'gradient_clip', max_norm: clipNorm }];
    const { tensors, records } = applyFilters(delta, [...clip, ...round.filters, ...own], this.#http.timing.random);
    return encoded(stateDict(tensors)).then((bytes) =>
      this.#upload({
        ...{ model, version, roundId, bytes, signal, filters: records, updateFormat: 'delta' },
        sampleCount: learned.sampleCount,
        metrics: learned.metrics,
      }),
    );
  }

  async #trainOnTable(data: TrainingData, options: TrainDataOptions): Promise<ClientUpdateResult> {
    const { model, targetCol, updateFormat = 'weights', local = {}, rounds = 1, onProgress, signal } = options;
    requireRounds(rounds);
    const room = await localRoom();
    return room.withFolder(async (folder) => {
      // The model first: its name costs nothing to check.
      const found = await this.#model(model, signal);
      const { trained, version } = await room.withData(data, this.#reading(folder, signal), async (source) => {
        const base = await this.#versionOrFirst(found, options, source, room);
        const request = {
          base: await this.#baseFiles(found.id, base, signal),
          modelName: found.name,
          ...{ source, targetCol, updateFormat, local, rounds, folder, onProgress, signal },
          personal: personalRequest(options, crypto.randomUUID(), 0),
        };
        return { trained: await room.trainOnTable(request), version: base };
      });
      const sampleCount = options.sampleCount ?? trained.sampleCount;
      const { update: bytes, metrics } = trained;
      return this.#upload({ model: found.id, version, bytes, sampleCount, metrics, updateFormat, signal });
    });
  }

  /** The version asked for, the latest, or for a model without any the one that this table begins. */
  async #versionOrFirst(
    { id, name }: { id: string; name: string },
    options: TrainDataOptions,
    source: Parameters<LocalRoom['describeTable']>[0],
    room: LocalRoom,
  ): Promise<string> {
    const { signal, targetCol = 'target' } = options;
    try {
      return await this.#version(id, options.version, signal);
    } catch (error) {
      const none = error instanceof OctomilClientError && error.code === 'version_not_found';
      if (!none || options.version !== undefined) throw error;
    }
    const statistics = await room.describeTable(source, targetCol, signal);
    if (statistics.target === null) {
      const columns = statistics.columns.map((column) => column.name).sort();
      throw new OctomilClientError(
        'data_mismatch',
        `model "${name}" has no version yet, and the data have no target column "${targetCol}" to begin one with; name it with targetCol: the columns are ${columns.join(', ') || 'none that could be used'}`,
        { details: { columns } },
      );
    }
    const json = { model_id: id, target: targetCol, statistics, ...snakeNames({ architecture: options.architecture }) };
    const first = await this.#http.json<{ version: string }>('POST', '/training/bases', { json, signal });
    return first.version;
  }

  async #model(model: string, signal: AbortSignal | undefined): Promise<{ id: string; name: string }> {
    return this.#http.json('GET', wirePath('models', model), { signal });
  }

  /** As a semantic version, so that it stays the same while training goes on. */
  async #version(model: string, version: string | undefined, signal: AbortSignal | undefined): Promise<string> {
    const path = wirePath('models', model, 'versions', version ?? 'latest');
    return (await this.#http.json<{ version: string }>('GET', path, { signal })).version;
  }

  async #baseFiles(
    model: string,
    version: string,
    signal: AbortSignal | undefined,
  ): Promise<{ document: Uint8Array; weights: Uint8Array }> {
    const [document, weights] = await Promise.all(
      ['model.json', 'safetensors'].map((format) => pullBytes(this.#http, { model, version, format, signal })),
    );
    return { document: document?.bytes ?? new Uint8Array(), weights: weights?.bytes ?? new Uint8Array() };
  }

  async #base(model: string, version: string, signal: AbortSignal | undefined): Promise<readonly NamedTensor[]> {
    const { bytes } = await pullBytes(this.#http, { model, version, format: 'safetensors', signal });
    return (await localRoom()).decode(bytes);
  }

  async #round(roundId: string | undefined, signal: AbortSignal | undefined): Promise<RoundRules> {
    if (roundId !== undefined) {
      const path = wirePath('training', 'rounds', roundId, 'status');
      return readRoundRules(await this.#http.json('GET', path, { signal }));
    }
    const [oldest] = await this.activeRounds(signal);
    if (oldest !== undefined) return oldest;
    throw new OctomilClientError(
      'assignment_not_found',
      `no round is open that "${this.deviceIdentifier}" has not answered; somebody starts one with admission "open"`,
    );
  }

  /** A failed registration is tried again by the next call. */
  #device(signal: AbortSignal | undefined): Promise<string> {
    this.#deviceId ??= this.register(signal === undefined ? {} : { signal }).then(
      ({ deviceId }) => deviceId,
      (error: unknown) => {
        this.#deviceId = undefined;
        throw error;
      },
    );
    return this.#deviceId;
  }

  #reading(folder: string, signal: AbortSignal | undefined): Parameters<LocalRoom['withData']>[1] {
    return {
      folder,
      signal,
      maxDownloadBytes: this.#options.maxDownloadBytes ?? DEFAULT_MAX_DOWNLOAD_BYTES,
    };
  }

  async #upload(update: Update): Promise<ClientUpdateResult> {
    return sendUpdate(this.#http, await this.#device(update.signal), update);
  }
}

async function guarded<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw clientError(error, signal);
  }
}

type PersonalOptions = Pick<TrainDataOptions, 'personalization' | 'personalFolder'>;

function personalRequest(
  { personalization, personalFolder: folder }: PersonalOptions,
  sessionId: string,
  roundNumber: number,
) {
  if (personalization === undefined) return undefined;
  if (folder !== undefined) return { personalization, folder, sessionId, roundNumber };
  throw new OctomilClientError(
    'invalid_input',
    'personalization needs personalFolder: a folder that keeps what stays here',
  );
}

function requireTable({ personalization }: PersonalOptions): void {
  if (personalization === undefined) return;
  throw new OctomilClientError(
    'training_not_supported',
    'personalization needs a table to train on; what ready weights or localTrainFn would send is not known to leave out what should stay',
  );
}

function requireRounds(rounds: number): void {
  if (Number.isSafeInteger(rounds) && rounds >= 1) return;
  throw new OctomilClientError('invalid_input', `rounds is ${rounds}; it must be a whole number of at least 1`);
}

function requireJoinable({ roundId, status, secureAggregation }: RoundRules): void {
  if (secureAggregation) {
    throw new OctomilClientError(
      'training_not_supported',
      `round ${roundId} asks for secure aggregation, which this version does not do; its updates would lie open`,
    );
  }
  if (status !== 'active') {
    throw new OctomilClientError('wrong_state', `round ${roundId} is ${status}; it takes no updates any more`);
  }
}
