import type { FeatureSpec } from '@octomil/shared/features';
import type { Architecture, ModelDocument } from '@octomil/shared/models';
import type { Kysely } from 'kysely';
import type {
  AggregationJob,
  AggregationResult,
  UpdateMeasure,
  ValidationJob,
} from '../aggregation/aggregation-job.js';
import type { JsonObject, Tables } from '../database/tables.js';

/** A stored file and its digest. */
export interface StoredFile {
  readonly objectKey: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

/** The sliver of the registry that training needs. */
export interface TrainingRegistry {
  /** The named version, or the latest one; `undefined` when the model has none (or none of that name). */
  baseFor(modelId: string, version: string | undefined): Promise<TrainingBase | undefined>;
  /** @throws `conflict` when the requested version exists */
  createVersionFromCheckpoint(request: VersionRequest, transaction: Kysely<Tables>): Promise<CreatedVersion>;
  /** Keeps the architecture and target of a model that had none. */
  setArchitecture(modelId: string, architecture: Architecture, target: string | null): Promise<void>;
}

export interface TrainingBase {
  readonly versionId: string;
  readonly checkpointId: string | null;
  readonly document: ModelDocument;
  readonly weights: StoredFile;
}

export interface VersionRequest {
  readonly modelId: string;
  /** null: the next free one. */
  readonly requestedVersion: string | null;
  readonly baseVersionId: string | null;
  readonly checkpoint: StoredFile & { readonly id: string };
  readonly document: ModelDocument;
  readonly lineage: JsonObject;
  readonly metrics: JsonObject;
  readonly publish: boolean;
  readonly sessionId: string;
}

export interface CreatedVersion {
  readonly versionId: string;
  readonly version: string;
  readonly sequence: number;
}

/**
 * Asks for the formats in which published clients pull a version, within the transaction that makes it. A published
 * version stays published meanwhile.
 */
export type ClientFormats = (versionId: string, transaction: Kysely<Tables>) => Promise<void>;

/** A spec that a person has confirmed. */
export interface ConfirmedSpec {
  readonly proposalId: string;
  readonly spec: FeatureSpec;
}

/** The sliver of the features room that training needs. */
export interface ConfirmedSpecs {
  /**
   * @param reference `confirmed`, or a proposal's id
   * @throws `wrong_state` where none is confirmed, naming what makes one; `not_found` for an id of another model,
   * federation or organization
   */
  confirmed(
    reference: string,
    of: {
      readonly organizationId: string;
      readonly federation: { readonly id: string; readonly name: string };
      readonly model: { readonly id: string; readonly name: string };
      /** null: the only one there is. */
      readonly target: string | null;
    },
  ): Promise<ConfirmedSpec>;
}

/** What the engine asks of the aggregation room's `Aggregator`. */
export interface TrainingAggregator {
  aggregate(job: AggregationJob, signal?: AbortSignal): Promise<AggregationResult>;
  validate(job: ValidationJob, signal?: AbortSignal): Promise<UpdateMeasure>;
}
