import { DEFAULT_DRIFT_THRESHOLDS, type DriftThresholds } from '@octomil/shared/features';
import type { DriftColumn } from './site-drift.js';

/** More of them are counted, not told. */
const MAX_CHANGES = 50;

/**
 * What changed at a site since it first reported, for people: its measures then and now, held against the thresholds of
 * drift. A site unlike the others is not one that changed: its measures stay.
 *
 * A column that either report leaves out is not compared. Of levels only the distance from the spec is told, twice; by the
 * triangle inequality, the spread has changed by their difference at least.
 */
export function changesSince(first: readonly DriftColumn[], now: readonly DriftColumn[]): string[] {
  const before = new Map(first.map((column) => [column['name'], column]));
  const changes = now.flatMap((column) => {
    const earlier = before.get(column['name']);
    if (earlier === undefined) return [];
    return MEASURES.flatMap((measure) => {
      const [then, current] = [earlier[measure], column[measure]];
      if (typeof then !== 'number' || typeof current !== 'number') return [];
      if (!(Math.abs(current - then) > DEFAULT_DRIFT_THRESHOLDS[measure])) return [];
      return [`column "${column['name']}": ${TEXTS[measure](current, then)}`];
    });
  });
  const more = changes.length - MAX_CHANGES;
  return more > 0 ? [...changes.slice(0, MAX_CHANGES - 1), `and ${more + 1} more`] : changes;
}

const TEXTS: Readonly<Record<keyof DriftThresholds, (now: number, then: number) => string>> = {
  shift: (now, then) =>
    `its mean is ${Math.abs(now - then).toFixed(2)} standard deviations ${now > then ? 'above' : 'below'} that of the site's first report`,
  missingRatio: (now, then) => `${percent(now)} is missing, against ${percent(then)} in the site's first report`,
  unknownRatio: (now, then) =>
    `${percent(now)} of its values are no agreed level, against ${percent(then)} in the site's first report`,
  levelShift: (now, then) =>
    `its levels are spread otherwise than in the site's first report: at least ${percent(Math.abs(now - then))} of the rows would have to change`,
  clippedRatio: (now, then) =>
    `${percent(now)} of its values are cut off as too far out, against ${percent(then)} in the site's first report`,
  implausibleRatio: (now, then) =>
    `${percent(now)} of its values are implausible, against ${percent(then)} in the site's first report`,
};

const MEASURES = Object.keys(TEXTS) as (keyof DriftThresholds)[];

const percent = (ratio: number): string => `${Number((ratio * 100).toFixed(1))} %`;
