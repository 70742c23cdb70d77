import { ERROR_CODES, type ErrorCode, isErrorCode } from '@octomil/shared/errors';
import type { JsonObject } from '../database/tables.js';
import type { NewEvent } from './event-feed.js';
import type { RoundFacts } from './round-facts.js';
import { retryDecision } from './round-machine.js';
import { anotherAttempt } from './round-plan.js';
import type { UnansweredAssignment } from './round-rows.js';
import { type RoundStore, roundLabel } from './round-store.js';

/** Errors that another attempt would meet again: the data or the request itself is at fault. */
const HOPELESS: ReadonlySet<ErrorCode> = new Set([
  'data_mismatch',
  'too_few_rows',
  'invalid_input',
  'too_large',
  'training_not_supported',
]);

/** What was asked for is at fault, so that nobody can mend it by resuming. */
const WRONG_REQUEST: ReadonlySet<string> = new Set<ErrorCode>(['invalid_input', 'training_not_supported']);

/** Categories whose errors end one exchange, or say nothing of why. */
const PASSING: ReadonlySet<string> = new Set(['control', 'lifecycle', 'network', 'transfer', 'unknown', 'internal']);

/** Whether the site would give the same answer at once: only a person there can change it. */
function isLasting(code: string | null): boolean {
  if (!isErrorCode(code)) return false;
  const { retry, category } = ERROR_CODES[code];
  return retry === 'never' && !PASSING.has(category);
}

export function isHopeless(code: string | null): boolean {
  return isErrorCode(code) && HOPELESS.has(code);
}

/** Why a round has no result. */
export interface Outcome {
  readonly state: 'insufficient_updates' | 'failed';
  readonly code: string;
  readonly reason: string;
  readonly owner?: string;
  readonly hopeless?: boolean;
}

export interface Ending {
  readonly ending: Parameters<RoundStore['end']>[1];
  readonly label: JsonObject;
  readonly events: readonly NewEvent[];
}

/** What becomes of a round without a result: another attempt, or a pause that names the sites and their reasons. */
export function endingOf(
  facts: RoundFacts,
  retries: number,
  outcome: Outcome,
  sites: readonly UnansweredAssignment[],
): Ending {
  const named = sites.map(({ deviceName, state, reason }) =>
    state === 'open' || state === 'accepted'
      ? `${deviceName}: did not answer before the round ended`
      : `${deviceName}: ${state}${reason === null ? '' : ` (${reason})`}`,
  );
  const reason = [outcome.reason, ...named].join('; ').slice(0, 4_000).toWellFormed();
  const codes = new Set(sites.map(({ reasonCode }) => reasonCode));
  // Sites whose columns do not fit what was asked would answer another attempt, or another person, alike.
  const all = (holds: (code: string | null) => boolean): boolean => codes.size > 0 && [...codes].every(holds);
  const misfit = all(facts.kind === 'describe' ? isHopeless : (one) => one !== null && WRONG_REQUEST.has(one));
  const code = misfit ? ([...codes][0] ?? outcome.code) : outcome.code;
  // Nobody resumes a dry run.
  const fails = outcome.hopeless === true || misfit || facts.config.dryRun;
  const retryOrPause = all(isLasting) ? 'pause' : retryDecision({ retries }, facts.config.maxRoundRetries);
  const decision = fails ? 'fail' : retryOrPause;
  const next = decision === 'retry' ? anotherAttempt(facts, facts.base?.id ?? null, retries + 1) : undefined;
  const label: JsonObject = { ...roundLabel(facts), reason_code: code, reason };
  const events: NewEvent[] = [{ type: 'round', data: { ...label, state: outcome.state, retried: next !== undefined } }];
  if (decision !== 'retry') {
    const state = decision === 'fail' ? 'failed' : 'paused';
    events.push({ type: 'session', data: { ...label, state } });
    if (state === 'failed') events.push({ type: 'end', data: { ...label, state } });
  }
  const ending = {
    ...outcome,
    code,
    reason,
    ...(next === undefined ? {} : { next }),
    ...(decision === 'retry' ? {} : { session: decision === 'fail' ? ('failed' as const) : ('paused' as const) }),
  };
  return { ending, label, events };
}
