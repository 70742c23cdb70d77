import { OctomilError } from '@octomil/shared/errors';
import type { JsonObject } from '../database/tables.js';
import type { AssignmentKey } from './assignment-port.js';
import type { AssignmentRow, AssignmentStore } from './assignment-store.js';
import { BoundedMap } from './bounded-map.js';
import { unknownAssignment, whyNot } from './device-answers.js';
import { findDataSet } from './eligibility.js';
import type { NewEvent } from './event-feed.js';
import type { RoundFacts, RoundFactsReader } from './round-facts.js';
import { roundLabel } from './round-store.js';
import { readSite, type SiteDataSet } from './site-summary.js';

/** What never changes about an assignment, and what its device declared when it was last read. */
export interface Known {
  readonly roundId: string;
  readonly deviceId: string;
  readonly deviceName: string;
  readonly site: unknown;
}

/** Assignments that this process has read, so that answers to them need not be looked up each time. */
export class KnownAssignments {
  readonly #store: Pick<AssignmentStore, 'find'>;
  readonly #facts: RoundFactsReader;
  readonly #known = new BoundedMap<string, Known>(20_000);

  constructor(store: Pick<AssignmentStore, 'find'>, facts: RoundFactsReader) {
    this.#store = store;
    this.#facts = facts;
  }

  has(key: AssignmentKey): boolean {
    return this.#known.get(key.assignmentId) !== undefined;
  }

  /** Says why an assignment does not count (any more). */
  async refuseToCount(deviceId: string, key: AssignmentKey): Promise<never> {
    const [row] = await this.#store.find([key.assignmentId]);
    throw (
      whyNot(row, deviceId, key) ??
      new OctomilError('round_closed', 'the training session does not run; nothing is accepted until it is resumed')
    );
  }

  /** The round's facts and the assignment, which must be the device's. @throws `not_found` when it is not */
  async mine(deviceId: string, key: AssignmentKey): Promise<{ facts: RoundFacts; known: Known }> {
    let known = this.#known.get(key.assignmentId);
    if (known === undefined) {
      const [row] = await this.#store.find([key.assignmentId]);
      if (row !== undefined) known = this.remember(row);
    }
    const facts = known === undefined ? undefined : await this.#facts.of(known.roundId);
    if (known?.deviceId !== deviceId || facts === undefined) throw unknownAssignment(key);
    return { facts, known };
  }

  remember({ id, roundId, deviceId, deviceName, site }: AssignmentRow): Known {
    const known = { roundId, deviceId, deviceName, site };
    this.#known.set(id, known);
    return known;
  }

  dataSetOf(facts: RoundFacts, { site }: Known): SiteDataSet | undefined {
    const summary = readSite(site);
    if (summary === undefined || facts.config.trainer === 'echo') return undefined;
    const found = findDataSet(summary, facts.config.dataSet);
    return typeof found === 'string' ? undefined : found;
  }
}

export function assignmentEvent(
  facts: RoundFacts,
  known: Known,
  data: JsonObject,
  type: 'assignment' | 'update' = 'assignment',
): NewEvent {
  return { type, data: { ...roundLabel(facts), device_id: known.deviceId, device: known.deviceName, ...data } };
}
