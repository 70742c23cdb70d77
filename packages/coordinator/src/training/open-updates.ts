import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile, rm } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import type { ObjectStore } from '@octomil/shared/storage';
import {
  encodeFlat,
  flatView,
  type ParameterLayout,
  parseLayout,
  readLayout,
  sameLayout,
} from '@octomil/shared/tensors';
import { validateUpdateBytes } from '../aggregation/validate-update.js';
import type { JsonObject } from '../database/tables.js';
import type { BaseLayouts } from './base-layouts.js';
import { sha256Of, updateKey } from './object-keys.js';
import { openKey } from './open-round.js';
import type { OpenDevice, OpenStore, OpenUpdate } from './open-store.js';
import type { TrainingAggregator, TrainingBase, TrainingRegistry } from './ports.js';
import type { RoundDriver } from './round-driver.js';
import type { RoundFacts, RoundFactsReader } from './round-facts.js';
import { roundLabel } from './round-store.js';
import { findBase } from './session-base.js';
import { type Caller, roundNotFound, type SessionService } from './session-service.js';
import { checkUpdateNorm } from './update-check.js';
import { canonicalWeights, payloadFormat } from './weights-payload.js';

export interface OpenUpdatesDependencies {
  readonly store: OpenStore;
  readonly sessions: SessionService;
  readonly facts: RoundFactsReader;
  readonly registry: TrainingRegistry;
  readonly layouts: BaseLayouts;
  readonly objects: ObjectStore;
  readonly aggregator: TrainingAggregator;
  readonly driver: RoundDriver;
  readonly tellSession: (sessionId: string) => void;
}

/** What an upload says about itself. */
export interface UploadHeader {
  /** Name or id. */
  readonly model: string;
  /** The version that was trained from. */
  readonly version: string;
  readonly deviceId: string;
  /** Rows trained on; 0 where the sender did not say. */
  readonly sampleCount: number;
  readonly metrics: JsonObject;
  readonly format: 'delta' | 'weights';
  readonly roundId?: string | undefined;
  /** Names of the columns that were found in the data. */
  readonly detectedFeatures?: readonly string[] | undefined;
  /** Of the bytes as sent, where the sender says. */
  readonly sha256?: string | undefined;
}

/** Bytes in memory, or a finished file that is this module's to move or leave. */
export type UploadBody =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'file'; readonly path: string; readonly sha256: string; readonly sizeBytes: number };

/** An update that comes unasked weighs no more rows than this: one client must not outweigh all others by a slip. */
const MAX_OPEN_SAMPLES = 10_000_000;
/** Files up to this size are read whole, and so may have any accepted format. */
const MAX_READ_BYTES = 128 * 1024 * 1024;
const MAX_METRICS_CHARACTERS = 64 * 1024;
/** A round that closes while an upload arrives makes way for the next one; more often than this is no accident. */
const MAX_ROUNDS_TRIED = 5;

/** Takes updates from whoever trains unasked: published clients, and `FederatedClient`. */
export class OpenUpdates {
  readonly #on: OpenUpdatesDependencies;
  #reading: Promise<unknown> = Promise.resolve();

  constructor(dependencies: OpenUpdatesDependencies) {
    this.#on = dependencies;
  }

  /**
   * How many bytes an upload for this version may have, so that a body can be refused before it is read.
   *
   * @throws as `accept`, for what the header names
   */
  async limitBytes(header: Pick<UploadHeader, 'model' | 'version' | 'roundId'>, caller: Caller): Promise<number> {
    const { sizeBytes } =
      header.roundId === undefined
        ? (await this.#baseOf(header, caller)).base.weights
        : ((await this.#namedRound(header.roundId, header, caller)).base ?? { sizeBytes: 0 });
    // F64 in the file is the most; a header may hold metadata.
    return 2 * sizeBytes + 16 * 1024 * 1024;
  }

  /**
   * Checks an upload and counts it. A repetition of the same bytes answers the update that exists.
   *
   * @throws `device_not_registered`, `forbidden`, `model_not_found`, `version_not_found`, `not_found` (round),
   * `wrong_state` (round not collecting), `checksum_mismatch`, `update_rejected` for bytes that do not fit the model
   */
  async accept(header: UploadHeader, body: UploadBody, caller: Caller): Promise<JsonObject> {
    checkHeader(header);
    const device = await this.#on.store.device(caller.organizationId, header.deviceId);
    for (let tried = 1; ; tried++) {
      const { facts } = await this.#roundFor(header, caller, header.format);
      await this.#requireIdentity(device, facts);
      const answer = await this.#acceptInto(facts, device, header, body);
      if (answer !== undefined) return answer;
      if (header.roundId !== undefined) {
        throw new OctomilError(
          'wrong_state',
          `round ${header.roundId} collects no updates any more; take part in the next one`,
        );
      }
      if (tried >= MAX_ROUNDS_TRIED) {
        throw new OctomilError(
          'wrong_state',
          'the round closed again and again while the update arrived; send it again',
        );
      }
    }
  }

  async #requireIdentity(device: OpenDevice, facts: RoundFacts): Promise<void> {
    if (device.identity !== 'shared' || (await this.#on.store.takesSharedIdentities(facts.federation.id))) return;
    throw new OctomilError(
      'forbidden',
      `federation "${facts.federation.name}" takes updates of enrolled devices only, and "${device.name}" was registered under an organization's key; enroll it`,
    );
  }

  /** The round that an upload is for; without one named, that of its model and version, which begins with the first upload. */
  async #roundFor(
    header: Pick<UploadHeader, 'model' | 'version' | 'roundId'>,
    caller: Caller,
    format: 'delta' | 'weights',
  ): Promise<{ facts: RoundFacts }> {
    if (header.roundId !== undefined) return { facts: await this.#namedRound(header.roundId, header, caller) };
    const { model, base } = await this.#baseOf(header, caller);
    const key = openKey(model.id, base.weights.sha256);
    for (let tried = 1; ; tried++) {
      const collecting = await this.#on.store.collecting(key);
      const facts = collecting === undefined ? undefined : await this.#on.facts.of(collecting.roundId);
      if (facts !== undefined) return { facts };
      const session = {
        model_id: model.id,
        admission: 'open',
        rounds: 1,
        min_updates: 1,
        update_format: format,
        base_version: header.version === 'latest' ? null : header.version,
        // Another attempt would begin without the updates; whoever asked for the aggregate is told why it failed.
        max_round_retries: 0,
      };
      try {
        await this.#on.sessions.create(session, caller, { closesOnRequest: true });
      } catch (error) {
        // Another upload was first.
        if (!(error instanceof OctomilError) || error.code !== 'conflict' || tried >= MAX_ROUNDS_TRIED) throw error;
      }
    }
  }

  async #baseOf(
    header: Pick<UploadHeader, 'model' | 'version'>,
    caller: Caller,
  ): Promise<{ model: { id: string; name: string }; base: TrainingBase }> {
    const model = await this.#on.sessions.model(caller.organizationId, header.model);
    const base = await findBase(this.#on.registry, model, header.version === 'latest' ? null : header.version);
    if (base !== undefined) return { model, base };
    throw new OctomilError('version_not_found', `model "${model.name}" has no published version to train from`);
  }

  async #namedRound(
    roundId: string,
    header: Pick<UploadHeader, 'model' | 'version'>,
    caller: Caller,
  ): Promise<RoundFacts> {
    const facts = await this.#on.facts.of(roundId);
    if (facts === undefined || !(await this.#on.store.mayTakePart(facts, caller.organizationId))) {
      throw roundNotFound(roundId);
    }
    if (facts.config.admission !== 'open' || facts.base === undefined) {
      throw new OctomilError(
        'wrong_state',
        `round ${roundId} selects its devices; only those it asked can answer, over their session`,
      );
    }
    const named = header.model;
    if (named !== facts.model.id && named.toLowerCase() !== facts.model.name.toLowerCase()) {
      throw new OctomilError('invalid_input', `round ${roundId} trains model "${facts.model.name}", not "${named}"`, {
        details: { field: 'model_id', value: named },
      });
    }
    return facts;
  }

  async #layoutOf(facts: RoundFacts): Promise<ParameterLayout> {
    const layout = await this.#on.layouts.of(facts);
    if (layout === undefined) throw new OctomilError('internal', `round ${facts.id} has no base`);
    return layout;
  }

  /** @returns undefined when the round closed meanwhile */
  async #acceptInto(
    facts: RoundFacts,
    device: OpenDevice,
    header: UploadHeader,
    body: UploadBody,
  ): Promise<JsonObject | undefined> {
    const layout = await this.#layoutOf(facts);
    const assignmentId = randomUUID();
    const stored = await this.#store(facts, layout, header, body, assignmentId);
    const { sampleCount } = header;
    const update: OpenUpdate = {
      updateId: randomUUID(),
      assignmentId,
      deviceId: device.id,
      format: facts.config.updateFormat,
      ...stored,
      sampleCount,
      // Who does not say how many rows counts like one row.
      weight: Math.min(Math.max(1, sampleCount), MAX_OPEN_SAMPLES),
      metrics: keptMetrics(header),
    };
    const label = roundLabel(facts);
    const data = { ...label, state: 'accepted', device_id: device.id, device: device.name, sample_count: sampleCount };
    const outcome = await this.#on.store.count(
      { sessionId: facts.sessionId, id: facts.id },
      update,
      { type: 'update', data },
      // Nobody waits for such a round, so whoever trains again before it closes is taken at the latest word.
      facts.config.closesOnRequest === true,
    );
    if (outcome.kind !== 'counted') await this.#on.objects.delete(update.objectKey);
    if (outcome.kind === 'closed') return undefined;
    const view = uploadView(facts, device, header, update);
    if (outcome.kind === 'counted') {
      // Such a round may collect for months; updates are swept once their round is over.
      if (outcome.replacedKey !== undefined) await this.#on.objects.delete(outcome.replacedKey);
      this.#on.tellSession(facts.sessionId);
      const reached = outcome.accepted >= outcome.minUpdates;
      if (reached && facts.config.closesOnRequest !== true) await this.#on.driver.quorumReached(facts);
      return { ...view, update_id: update.updateId, status: 'accepted', reason_code: null, reason: null };
    }
    // The same bytes again: a retry whose first answer was lost.
    if (outcome.sha256 === update.sha256) {
      return { ...view, update_id: outcome.updateId, status: 'accepted', reason_code: null, reason: null };
    }
    const reason = `device "${device.name}" has an update in this round already (${outcome.updateId}); one of each device counts, and the first stays`;
    await this.#on.store.reject({ id: facts.id }, update, 'already_answered', reason);
    return { ...view, update_id: update.updateId, status: 'rejected', reason_code: 'already_answered', reason };
  }

  async #store(
    facts: RoundFacts,
    layout: ParameterLayout,
    header: UploadHeader,
    body: UploadBody,
    assignmentId: string,
  ): Promise<{ objectKey: string; sha256: string; sizeBytes: number }> {
    checkDigest(header.sha256, body.kind === 'file' ? body.sha256 : sha256Of(body.bytes));
    const sameFormat = header.format === facts.config.updateFormat;
    if (body.kind === 'file' && sameFormat && (await isCanonical(body.path, layout))) {
      const measure = await this.#on.aggregator.validate({ path: body.path, layout });
      if (header.format === 'delta') checkUpdateNorm(measure, facts);
      const objectKey = updateKey(facts.id, assignmentId, body.sha256);
      // Copied, not moved: if the round closes now, the file is needed for the next one.
      await this.#on.objects.put(objectKey, createReadStream(body.path));
      return { objectKey, sha256: body.sha256, sizeBytes: body.sizeBytes };
    }
    if (body.kind === 'file' && body.sizeBytes > MAX_READ_BYTES) {
      throw new OctomilError(
        'too_large',
        `the update has ${body.sizeBytes} bytes; beyond ${MAX_READ_BYTES} it must be a float32 safetensors file, tensors in the order of their names, with update_format "${facts.config.updateFormat}"`,
        { details: { limitBytes: MAX_READ_BYTES } },
      );
    }
    // One at a time: several in memory at once would be many times their size.
    const work = this.#reading.then(() => this.#storeWhole(facts, layout, header, body, assignmentId));
    this.#reading = work.catch(() => undefined);
    return work;
  }

  async #storeWhole(
    facts: RoundFacts,
    layout: ParameterLayout,
    header: UploadHeader,
    body: UploadBody,
    assignmentId: string,
  ): Promise<{ objectKey: string; sha256: string; sizeBytes: number }> {
    const sameFormat = header.format === facts.config.updateFormat;
    const sent = body.kind === 'bytes' ? body.bytes : await readFile(body.path);
    const canonical = await canonicalWeights(sent, layout);
    const measure = validateUpdateBytes(canonical, layout);
    if (header.format === 'delta') checkUpdateNorm(measure, facts);
    const bytes = sameFormat ? canonical : await this.#converted(facts, canonical, header.format);
    const sha256 = sha256Of(bytes);
    const objectKey = updateKey(facts.id, assignmentId, sha256);
    await this.#on.objects.put(objectKey, bytes);
    return { objectKey, sha256, sizeBytes: bytes.length };
  }

  /** Clients of one round may send both formats; one aggregation has one. */
  async #converted(facts: RoundFacts, bytes: Uint8Array, from: 'delta' | 'weights'): Promise<Uint8Array> {
    const { base } = facts;
    if (base === undefined) throw new OctomilError('internal', `round ${facts.id} has no base`);
    const baseBytes = await this.#on.objects.readAll(base.objectKey, base.sizeBytes);
    const layout = parseLayout(baseBytes);
    const reference = flatView(baseBytes, layout);
    const given = flatView(bytes, parseLayout(bytes));
    const sign = from === 'weights' ? -1 : 1;
    const converted = encodeFlat(
      layout,
      given.map((value, index) => value + sign * (reference[index] ?? 0)),
    );
    // A sum of two finite numbers need not be one.
    validateUpdateBytes(converted, layout);
    return converted;
  }
}

/** Leaves nothing behind. */
export async function discardBody(body: UploadBody): Promise<void> {
  if (body.kind === 'file') await rm(body.path, { force: true });
}

async function isCanonical(path: string, layout: ParameterLayout): Promise<boolean> {
  const file = await open(path, 'r');
  try {
    const start = new Uint8Array(8);
    await file.read(start, 0, start.length, 0);
    if (payloadFormat(start) !== 'safetensors') return false;
  } finally {
    await file.close();
  }
  try {
    return sameLayout(layout, await readLayout(path)) === undefined;
  } catch (error) {
    // Other floats, or another order: read as a whole below, which also says what is wrong.
    if (error instanceof OctomilError) return false;
    throw error;
  }
}

function checkDigest(promised: string | undefined, actual: string): void {
  if (promised === undefined || promised.toLowerCase() === actual) return;
  throw new OctomilError(
    'checksum_mismatch',
    `the bytes have sha256 ${actual}, but ${promised.slice(0, 80)} was announced; send the update again`,
  );
}

function checkHeader({ metrics }: UploadHeader): void {
  const characters = JSON.stringify(metrics).length;
  if (characters > MAX_METRICS_CHARACTERS) {
    throw new OctomilError(
      'invalid_input',
      `metrics have ${characters} characters as JSON; at most ${MAX_METRICS_CHARACTERS} are allowed`,
      { details: { field: 'metrics' } },
    );
  }
}

/** The published clients say `loss`, agents `trainLoss`. */
function keptMetrics({ metrics, detectedFeatures }: UploadHeader): JsonObject {
  const loss = metrics['trainLoss'] ?? metrics['train_loss'] ?? metrics['loss'];
  return {
    ...metrics,
    ...(loss === undefined ? {} : { trainLoss: loss }),
    ...(detectedFeatures === undefined ? {} : { detected_features: detectedFeatures.slice(0, 1_000) }),
  };
}

function uploadView(facts: RoundFacts, device: OpenDevice, header: UploadHeader, update: OpenUpdate): JsonObject {
  return {
    round_id: facts.id,
    session_id: facts.sessionId,
    model_id: facts.model.id,
    version: header.version,
    device_id: device.id,
    sample_count: update.sampleCount,
    weight: update.weight,
    update_format: header.format,
    metrics: header.metrics,
    sha256: update.sha256,
    size_bytes: update.sizeBytes,
  };
}
