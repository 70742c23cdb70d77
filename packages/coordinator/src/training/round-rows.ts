import type { AssignmentState, JsonObject, RoundKind, RoundState } from '../database/tables.js';
import type { StoredFile } from './ports.js';
import type { BaseCheckpoint } from './round-facts.js';

export interface RoundTallyRow {
  readonly state: RoundState;
  readonly sessionState: string;
  readonly accepted: number;
  readonly minUpdates: number;
  readonly target: number;
  readonly retries: number;
  readonly deadlinePassed: boolean;
  readonly patienceOver: boolean;
  readonly asked: number;
  readonly working: number;
  /** Working, but without progress for too long. */
  readonly overdue: number;
  /** Aggregating, and whoever did has not been heard of. */
  readonly orphaned: boolean;
}

export interface NewAssignment {
  readonly id: string;
  readonly deviceId: string;
}

export interface CancelledAssignment {
  readonly id: string;
  readonly deviceId: string;
  readonly attempt: number;
}

export interface NextRound {
  readonly id: string;
  readonly kind: RoundKind;
  readonly number: number;
  readonly attempt: number;
  readonly retries: number;
  readonly seed: number;
  readonly baseCheckpointId: string | null;
  readonly minUpdates: number;
  readonly targetDevices: number;
}

export interface NewCheckpoint extends StoredFile {
  readonly id: string;
  readonly organizationId: string;
  readonly baseCheckpointId: string | null;
  readonly strategy: string | null;
  readonly stateKey: string | null;
  readonly stateSha256: string | null;
  /** As in the lineage, where it is kept. */
  readonly control?: NonNullable<BaseCheckpoint['control']>;
  readonly lineage: JsonObject;
}

export interface AcceptedAnswer {
  readonly deviceId: string;
  readonly deviceName: string;
  readonly objectKey: string | null;
  readonly sha256: string;
  readonly format: 'delta' | 'weights';
  readonly weight: number;
  readonly sampleCount: number;
  readonly metrics: JsonObject;
}

export interface UnansweredAssignment {
  readonly deviceId: string;
  readonly deviceName: string;
  readonly state: AssignmentState;
  readonly reasonCode: string | null;
  readonly reason: string | null;
}
