import { OctomilError } from '@octomil/shared/errors';
import type { ParameterLayout } from '@octomil/shared/tensors';
import type { UpdateMeasure } from '../aggregation/aggregation-job.js';
import type { UpdateHeaderFields } from './assignment-port.js';
import type { RoundFacts } from './round-facts.js';

/** Bytes that a header may have beyond the base's: metadata that the sender adds. */
const HEADER_ALLOWANCE_BYTES = 1024 * 1024;
/** Characters of an update's metrics as JSON. */
const MAX_METRICS_CHARACTERS = 64 * 1024;

/**
 * Checks what an update says about itself, before any of its bytes are taken.
 *
 * @throws `update_rejected` naming the field, its value and what the round expects
 */
export function checkUpdateHeader(
  header: UpdateHeaderFields,
  facts: Pick<RoundFacts, 'kind' | 'number' | 'config'>,
  layout: ParameterLayout,
): void {
  if (facts.kind !== 'train') throw rejected(`round ${facts.number} asks for a report, not for an update`);
  const { updateFormat } = facts.config;
  if (header.format !== updateFormat) {
    throw rejected(`the update is "${header.format}", but the session asks for "${updateFormat}"`);
  }
  if (!/^[0-9a-f]{64}$/.test(header.sha256)) {
    throw rejected(`sha256 "${header.sha256.slice(0, 80)}" is not 64 lower-case hexadecimal digits`);
  }
  if (!Number.isSafeInteger(header.sampleCount) || header.sampleCount < 1) {
    throw rejected(`sample_count is ${header.sampleCount}; it must be a whole number of at least 1`);
  }
  const dataBytes = layout.totalParams * 4;
  const maxBytes = dataBytes + layout.headerBytes.length + HEADER_ALLOWANCE_BYTES;
  if (!Number.isSafeInteger(header.sizeBytes) || header.sizeBytes <= dataBytes || header.sizeBytes > maxBytes) {
    throw rejected(
      `the update has ${header.sizeBytes} bytes; ${layout.totalParams} parameters take more than ${dataBytes} and at most ${maxBytes}`,
    );
  }
  const metrics = JSON.stringify(header.metrics).length;
  if (metrics > MAX_METRICS_CHARACTERS) {
    throw rejected(`the update's metrics have ${metrics} characters; at most ${MAX_METRICS_CHARACTERS} are allowed`);
  }
}

/** @throws `checksum_mismatch`, `update_rejected` */
export function checkUpdateBytes(header: UpdateHeaderFields, actual: { sha256: string; sizeBytes: number }): void {
  if (actual.sizeBytes !== header.sizeBytes) {
    throw rejected(`${actual.sizeBytes} bytes arrived, but the header says ${header.sizeBytes}`);
  }
  if (actual.sha256 !== header.sha256) {
    throw new OctomilError(
      'checksum_mismatch',
      `the bytes have sha256 ${actual.sha256}, but the header says ${header.sha256}; send the update again`,
    );
  }
}

/** @throws `update_rejected` beyond the session's limit on the norm */
export function checkUpdateNorm(measure: UpdateMeasure, facts: Pick<RoundFacts, 'config'>): void {
  const { maxUpdateNormL2 } = facts.config;
  if (maxUpdateNormL2 === null || measure.normL2 <= maxUpdateNormL2) return;
  throw rejected(
    `the update's norm is ${measure.normL2}, more than the ${maxUpdateNormL2} that max_update_norm allows`,
  );
}

/**
 * What an update weighs in the mean: its sample count, but no more than the rows that the device declared for its data
 * set (0: not known). The cap on shares needs all updates, so it is taken at aggregation.
 */
export function updateWeight(sampleCount: number, declaredRows: number): number {
  // Declared counts are rounded down to tens.
  return declaredRows > 0 ? Math.min(sampleCount, declaredRows + 9) : sampleCount;
}

function rejected(reason: string): OctomilError {
  return new OctomilError('update_rejected', reason);
}
