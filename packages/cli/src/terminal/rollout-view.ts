import type { Rollout } from '@octomil/sdk';
import { type Column, percentText, table } from './output.js';

/** What a watcher of a rollout sees: each stage as it was last, in order. */
export type RolloutView = readonly Rollout[];

/** The view after one more look. A stage is its number and its share: a share may be raised within a stage. */
export function foldRollout(view: RolloutView, rollout: Rollout): RolloutView {
  const before = view.at(-1);
  const same = before?.stage === rollout.stage && before.rolloutPercentage === rollout.rolloutPercentage;
  return [...(same ? view.slice(0, -1) : view), rollout];
}

export const STAGE_COLUMNS: readonly Column<Rollout>[] = [
  { title: 'Stage', value: (row) => row.stage, align: 'right' },
  { title: 'Share', value: (row) => percentText(row.rolloutPercentage), align: 'right' },
  { title: 'Active', value: (row) => row.devices?.active, align: 'right' },
  { title: 'Failed', value: (row) => row.devices?.failed, align: 'right' },
  { title: 'Pending', value: (row) => row.devices?.pending, align: 'right' },
  { title: 'Status', value: (row) => row.status },
  { title: 'Reason', value: lastReason },
];

/** Several lines for a terminal. */
export async function drawRollout(view: RolloutView): Promise<string> {
  const now = view.at(-1);
  if (now === undefined) return '';
  const from = now.previousVersion === null ? '' : ` (before: ${now.previousVersion})`;
  return `Rollout ${now.id}: ${now.version}${from}, up to ${percentText(now.targetPercentage)}\n${await table(view, STAGE_COLUMNS)}`;
}

/** One line for a log; the same as before while nothing that counts has changed. */
export function rolloutLine(rollout: Rollout): string {
  const { devices, stage, rolloutPercentage, status } = rollout;
  const counts =
    devices === undefined
      ? ''
      : `  active ${devices.active}  failed ${devices.failed}  pending ${devices.pending} of ${devices.inStage}`;
  const reason = lastReason(rollout);
  return `stage ${stage}  ${percentText(rolloutPercentage)}  ${status}${counts}${reason ? `  ${reason}` : ''}`;
}

/** It has ended, and where it was completed every device of its share has said how the version does there. */
export function isSettled({ status, devices, gate, health }: Rollout): boolean {
  if (status === 'rolled_back' || status === 'failed') return true;
  if (status !== 'completed') return false;
  if (gate?.verdict === 'breach' && health.onBreach !== 'pause') return false;
  return devices === undefined || devices.active + devices.failed >= devices.inStage;
}

/** Why it stands where it stands: what the rollout says of itself, else what its gates wait for. */
export function lastReason({ reason, gate }: Rollout): string | null {
  return reason ?? gate?.reason ?? null;
}
